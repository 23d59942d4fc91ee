"use strict";
// The difference of two models, per prompt, by the answers to each row.
// `pairs.py` packs the answers; `tests/reporting/page_pairs_test.py` holds the numbers
// against those of `evaluation/comparisons.py`.

// Variances below this are of rounding: all rows differ alike.
const LEAST_VARIANCE = 1e-12;
// More prompts than these are folded to their datasets when the page opens.
const MOST_OPEN_PROMPTS = 24;

/** Returns the scores of a model by task; null for a task that it lacks. */
function unpackAnswers(tasks, model) {
  const bytes = Uint8Array.from(atob(model.answers), (c) => c.charCodeAt(0));
  let start = 0;
  return tasks.map(({ numRows, bits, scores }, i) => {
    if (model.lacks.includes(i)) return null;
    const answers = new Float64Array(numRows);
    const mask = 2 ** bits - 1;
    for (let row = 0; row < numRows; row++) {
      const bit = row * bits;
      const byte = start + (bit >> 3);
      const place =
        bits === 16
          ? bytes[byte] + 256 * bytes[byte + 1]
          : (bytes[byte] >> (8 - bits - (bit & 7))) & mask;
      answers[row] = scores[place];
    }
    start += Math.ceil((numRows * bits) / 8);
    return answers;
  });
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const mean = (numbers) => sum(numbers) / numbers.length;

/**
 * Returns the mean over prompts of differences of two models on one dataset.
 *
 * Rows are what varies, as in the tables: a row brings its results under all prompts.
 * So the variance is that of rows' shares in the mean.
 *
 * `parts` has, for each prompt, the differences by row (`gaps`) and these rows' places
 * among the `numRows` of the dataset. A single row has no variance: NaN.
 */
function meanOfDataset(parts, numRows) {
  const means = parts.map(({ gaps }) => mean(gaps));
  const shares = new Float64Array(numRows);
  parts.forEach(({ gaps, places }, i) => {
    gaps.forEach((gap, j) => {
      shares[places ? places[j] : j] += (gap - means[i]) / (parts.length * gaps.length);
    });
  });
  const squares = sum(shares.map((share) => share * share));
  const variance = numRows > 1 ? (squares * numRows) / (numRows - 1) : NaN;
  return { difference: mean(means), variance };
}

/**
 * Returns the differences of two models: of all datasets, of each, of each prompt.
 *
 * Only tasks that both have are compared, and means are only of whole datasets.
 */
function compareModels(data, one, other) {
  const [ours, theirs] = [one, other].map((model) => unpackAnswers(data.tasks, model));
  const mayTell = !one.isBound && !other.isBound;
  const line = (name, { difference, variance }, first, second) => ({
    name,
    first,
    second,
    difference,
    // No width where all rows agree: they cannot tell how far others would.
    error: mayTell && variance > LEAST_VARIANCE ? Math.sqrt(variance) : NaN,
  });
  const found = data.datasets.map(({ name, numRows }, dataset) => {
    const places = data.tasks.flatMap((task, i) => (task.dataset === dataset ? [i] : []));
    const both = places.filter((i) => ours[i] && theirs[i]);
    const parts = both.map((i) => ({
      gaps: ours[i].map((score, row) => score - theirs[i][row]),
      places: data.tasks[i].places,
      scores: [mean(ours[i]), mean(theirs[i])],
    }));
    const prompts = both.map((i, j) => {
      const { gaps, scores } = parts[j];
      const alone = meanOfDataset([{ gaps }], gaps.length);
      return line(data.tasks[i].prompt, alone, ...scores);
    });
    const isWhole = both.length === places.length;
    const all = isWhole ? meanOfDataset(parts, numRows) : null;
    const scores = [0, 1].map((k) => mean(parts.map((part) => part.scores[k])));
    return { all, prompts, line: all && line(name, all, ...scores), name };
  });
  let total = null;
  if (found.every(({ all }) => all)) {
    const difference = mean(found.map(({ all }) => all.difference));
    const variance = sum(found.map(({ all }) => all.variance)) / found.length ** 2;
    const scores = ["first", "second"].map((k) => mean(found.map((one) => one.line[k])));
    total = line("mean", { difference, variance }, ...scores);
  }
  const datasets = found.map(({ name, line: own, prompts }) => ({ name, own, prompts }));
  return { total, datasets };
}

/** Returns a number to one decimal with a true minus sign, as the tables have it. */
function shownNumber(value, isSigned = false) {
  if (value === null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  // Halves go to the even digit, as in Python: 12.25 is 12.2, and toFixed makes it 12.3.
  const isHalf = (4 * size) % 2 === 1;
  const tenths = Math.floor(10 * size);
  const text = (isHalf ? (tenths + (tenths % 2)) / 10 : size).toFixed(1);
  if (text === "0.0") return isSigned ? "+0.0" : text;
  return `${value < 0 ? "−" : isSigned ? "+" : ""}${text}`;
}

/** Returns the expert with the highest mean on these rows, if it is one of several. */
function bestExpert(data) {
  return data.numExperts > 1 ? data.models.find(({ isExpert }) => isExpert) : undefined;
}

/** Returns what a reader has to know of two models, a sentence each. */
function cautions(data, one, other) {
  const found = [];
  for (const model of new Set([one, other])) {
    if (model.isBound) {
      found.push(
        `${model.label} was chosen by these rows: it is a bound and no method, so its` +
          " differences have no intervals.",
      );
    }
    if (model === bestExpert(data)) {
      found.push(
        `${model.label} has the highest mean of ${data.numExperts} experts on these` +
          " rows. Who picks it for that chooses by them: its differences are a bound," +
          " too high by luck.",
      );
    }
    if (model.numTrainings > 1) {
      found.push(
        `${model.label} is the mean of ${model.numTrainings} trainings: these intervals` +
          " are of rows alone, those of the tables of trainings, too.",
      );
    }
  }
  return found;
}

class PairTable {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(section.querySelector(".values").textContent);
    this.table = section.querySelector("table");
    this.selects = [...section.querySelectorAll("select")];
    this.atOnce = section.querySelector(".at-once");
    this.cautions = section.querySelector(".cautions");
    const { datasets, tasks } = this.data;
    this.open = new Set(tasks.length > MOST_OPEN_PROMPTS ? [] : datasets.map((d) => d.name));
    this.order = null; // that of the datasets; else whether the greatest is first
    this.heads = [...this.table.tHead.rows[0].cells];
    this.foldAll = section.querySelector(".fold-all");
    this.addControls();
    this.show();
    section.querySelector(".tools").hidden = false;
    section.querySelector(".needs-script").hidden = true;
  }

  get areAllOpen() {
    return this.data.datasets.every(({ name }) => this.open.has(name));
  }

  addControls() {
    const { models, first, second } = this.data;
    this.selects.forEach((select, i) => {
      for (const [title, isExpert] of [["Strategies", false], ["Experts", true]]) {
        const group = document.createElement("optgroup");
        group.label = title;
        models.forEach((model, place) => {
          if (model.isExpert !== isExpert) return;
          const option = new Option(model.label + (model.isBound ? " (a bound)" : ""), place);
          option.selected = model.label === [first, second][i];
          group.append(option);
        });
        if (group.childElementCount) select.append(group);
      }
      select.addEventListener("change", () => this.show());
    });
    this.section.querySelector(".swap").addEventListener("click", () => {
      const [one, other] = this.selects;
      [one.value, other.value] = [other.value, one.value];
      this.show();
    });
    this.atOnce.addEventListener("change", () => this.show());
    this.foldAll.addEventListener("click", () => {
      const names = this.data.datasets.map(({ name }) => name);
      this.open = new Set(this.areAllOpen ? [] : names);
      this.show();
    });
    // Once the greatest first, once the least, then again as the datasets come.
    makeButton(this.heads[3], () => {
      this.order = this.order === null ? true : this.order ? false : null;
      this.show();
    });
    this.section.querySelector(".csv").addEventListener("click", () => {
      saveFile(fileName(`${this.models.map(({ label }) => label).join(" minus ")}`), this.csv());
    });
  }

  get models() {
    return this.selects.map((select) => this.data.models[Number(select.value)]);
  }

  get reach() {
    return this.atOnce.checked ? this.data.reachAtOnce : this.data.reach;
  }

  show() {
    const [one, other] = this.models;
    this.found = compareModels(this.data, one, other);
    this.isChosen = [one, other].includes(bestExpert(this.data));
    const told = cautions(this.data, one, other).map((sentence) => {
      const line = document.createElement("p");
      line.className = "key care";
      line.textContent = sentence;
      return line;
    });
    this.cautions.replaceChildren(...told);
    this.heads[1].textContent = one.label;
    this.heads[2].textContent = other.label;
    const sorted = { true: "descending", false: "ascending" }[this.order];
    if (sorted) this.heads[3].setAttribute("aria-sort", sorted);
    else this.heads[3].removeAttribute("aria-sort");
    this.foldAll.textContent = this.areAllOpen ? "Fold all datasets" : "Show all prompts";
    const { total, datasets } = this.found;
    const lines = datasets.flatMap(({ own, prompts }) => [own, ...prompts]);
    const ends = [total, ...lines].filter(Boolean).map(
      ({ difference, error }) => Math.abs(difference) + this.reach * (error || 0),
    );
    this.range = Math.max(5, ...ends);
    const body = this.table.tBodies[0];
    body.replaceChildren();
    if (total) body.append(this.row(total, "total"));
    for (const { name, own, prompts } of this.ordered(datasets, ({ own }) => own)) {
      const isOpen = this.open.has(name);
      const head = this.row(own ?? { name, difference: NaN, error: NaN }, "dataset");
      const button = makeButton(head.cells[0], () => {
        if (this.open.has(name)) this.open.delete(name);
        else this.open.add(name);
        this.show();
        const heads = [...body.querySelectorAll("button")];
        heads.find((one) => one.textContent === name).focus();
      });
      button.setAttribute("aria-expanded", String(isOpen));
      body.append(head);
      if (!isOpen) continue;
      body.append(...this.ordered(prompts, (one) => one).map((one) => this.row(one, "prompt")));
    }
  }

  /** Returns datasets or prompts in the order that the reader has chosen. */
  ordered(lines, lineOf) {
    if (this.order === null) return lines;
    const value = (one) => lineOf(one)?.difference ?? null;
    return lines.toSorted((a, b) => compareValues(value(a), value(b), this.order));
  }

  /** Returns a row of the table; texts are texts, whatever they hold. */
  row({ name, first = NaN, second = NaN, difference, error }, kind) {
    const row = document.createElement("tr");
    row.className = kind;
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    head.title = name;
    row.append(head);
    const [low, high] = [-1, 1].map((side) => difference + side * this.reach * error);
    const interval = `${shownNumber(low, true)} to ${shownNumber(high, true)}`;
    const texts = [shownNumber(first), shownNumber(second), shownNumber(difference, true)];
    for (const text of [...texts, Number.isNaN(error) ? "–" : interval]) {
      row.insertCell().textContent = text;
    }
    const isApart = Math.abs(difference) > this.data.reachAtOnce * error;
    row.cells[3].className = isApart && !this.isChosen ? "apart" : "";
    const plot = row.insertCell();
    plot.className = "plot";
    plot.append(...this.marks(difference, low, high));
    return row;
  }

  /** Returns the marks of a difference on the axis from -range to range. */
  marks(difference, low, high) {
    const track = document.createElement("span");
    track.className = "track";
    const place = (value) => 50 + (50 * value) / this.range;
    const mark = (name, left, width) => {
      const made = document.createElement("i");
      made.className = name;
      made.style.left = `${left}%`;
      if (width !== undefined) made.style.width = `${width}%`;
      track.append(made);
    };
    mark("zero", 50);
    if (!Number.isNaN(low)) mark("range", place(low), place(high) - place(low));
    if (!Number.isNaN(difference)) mark("dot", place(difference));
    return [track];
  }

  /** Returns all lines, those of folded datasets too, to four decimals. */
  csv() {
    const [one, other] = this.models;
    const kind = this.atOnce.checked ? "all at once" : "95 %";
    const lines = [["dataset", "prompt", one.label, other.label, "difference",
      `low (${kind}, normal)`, `high (${kind}, normal)`]];
    const add = (dataset, prompt, { first, second, difference, error }) => {
      const ends = [difference - this.reach * error, difference + this.reach * error];
      const numbers = [first, second, difference, ...ends];
      const rounded = numbers.map((n) => (Number.isNaN(n) ? null : Number(n.toFixed(4))));
      lines.push([dataset, prompt, ...rounded]);
    };
    const { total, datasets } = this.found;
    if (total) add("mean", "", total);
    for (const { name, own, prompts } of datasets) {
      if (own) add(name, "", own);
      prompts.forEach((prompt) => add(name, prompt.name, prompt));
    }
    return toCsv(lines);
  }
}

const pairTables = [...document.querySelectorAll("section.pairs")].map(
  (section) => new PairTable(section),
);
