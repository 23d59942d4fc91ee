"use strict";
// Tables of the difference of any two models: choose them, sort, fold, download.

// More prompts than these are folded to their datasets when the page opens.
const MOST_OPEN_PROMPTS = 24;

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
    this.isGreatestFirst = null; // null for the order in which datasets come
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
    const { models, first: firstLabel, second: secondLabel } = this.data;
    this.selects.forEach((select, i) => {
      for (const [title, isExpert] of [["Strategies", false], ["Experts", true]]) {
        const group = document.createElement("optgroup");
        group.label = title;
        models.forEach((model, number) => {
          if (model.isExpert !== isExpert) return;
          const option = new Option(model.label + (model.isBound ? " (a bound)" : ""), number);
          option.selected = model.label === [firstLabel, secondLabel][i];
          group.append(option);
        });
        if (group.childElementCount) select.append(group);
      }
      select.addEventListener("change", () => this.show());
    });
    this.section.querySelector(".swap").addEventListener("click", () => {
      const [first, second] = this.selects;
      [first.value, second.value] = [second.value, first.value];
      this.show();
    });
    this.atOnce.addEventListener("change", () => this.show());
    this.foldAll.addEventListener("click", () => {
      const names = this.data.datasets.map(({ name }) => name);
      this.open = new Set(this.areAllOpen ? [] : names);
      this.show();
    });
    // First the greatest first, then the least, then again as the datasets come.
    makeButton(this.heads[3], () => {
      const next = new Map([[null, true], [true, false], [false, null]]);
      this.isGreatestFirst = next.get(this.isGreatestFirst);
      this.show();
    });
    this.section.querySelector(".csv").addEventListener("click", () => {
      saveFile(fileName(`${this.models.map(({ label }) => label).join(" minus ")}`), this.csv());
    });
  }

  get models() {
    return this.selects.map((select) => this.data.models[Number(select.value)]);
  }

  /** How many standard errors it is from a difference to the ends of its interval. */
  get reach() {
    return this.atOnce.checked ? this.data.reachAtOnce : this.data.reach;
  }

  show() {
    const [first, second] = this.models;
    this.comparison = compareModels(this.data, first, second);
    this.hasBestExpert = [first, second].includes(bestExpert(this.data));
    const paragraphs = cautions(this.data, first, second).map((sentence) => {
      const paragraph = document.createElement("p");
      paragraph.className = "key care";
      paragraph.textContent = sentence;
      return paragraph;
    });
    this.cautions.replaceChildren(...paragraphs);
    this.heads[1].textContent = first.label;
    this.heads[2].textContent = second.label;
    const order = { true: "descending", false: "ascending" }[this.isGreatestFirst];
    if (order) this.heads[3].setAttribute("aria-sort", order);
    else this.heads[3].removeAttribute("aria-sort");
    this.foldAll.textContent = this.areAllOpen ? "Fold all datasets" : "Show all prompts";
    const { total, datasets } = this.comparison;
    const lines = datasets.flatMap(({ datasetLine, promptLines }) => [
      datasetLine,
      ...promptLines,
    ]);
    const distances = [total, ...lines].filter(Boolean).map(
      ({ difference, error }) => Math.abs(difference) + this.reach * (error || 0),
    );
    this.range = Math.max(5, ...distances);
    this.fillBody(total, datasets);
  }

  /** Puts the lines that are shown into the body of the table. */
  fillBody(total, datasets) {
    const body = this.table.tBodies[0];
    body.replaceChildren();
    if (total) body.append(this.row(total, "total"));
    const lineOf = ({ datasetLine }) => datasetLine;
    for (const { name, datasetLine, promptLines } of this.ordered(datasets, lineOf)) {
      const isOpen = this.open.has(name);
      const line = datasetLine ?? { name, difference: NaN, error: NaN };
      const head = this.row(line, "dataset");
      const button = makeButton(head.cells[0], () => {
        if (this.open.has(name)) this.open.delete(name);
        else this.open.add(name);
        this.show();
        const buttons = [...body.querySelectorAll("button")];
        buttons.find(({ textContent }) => textContent === name).focus();
      });
      button.setAttribute("aria-expanded", String(isOpen));
      body.append(head);
      if (!isOpen) continue;
      const prompts = this.ordered(promptLines, (promptLine) => promptLine);
      body.append(...prompts.map((promptLine) => this.row(promptLine, "prompt")));
    }
  }

  /** Returns datasets or prompts in the order that the reader has chosen. */
  ordered(parts, lineOf) {
    if (this.isGreatestFirst === null) return parts;
    const value = (part) => lineOf(part)?.difference ?? null;
    return parts.toSorted((part, next) =>
      compareValues(value(part), value(next), this.isGreatestFirst),
    );
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
    row.cells[3].className = isApart && !this.hasBestExpert ? "apart" : "";
    const plot = row.insertCell();
    plot.className = "plot";
    plot.append(...this.marks(difference, low, high));
    return row;
  }

  /** Returns the marks of a difference on the axis from -range to range. */
  marks(difference, low, high) {
    const track = document.createElement("span");
    track.className = "track";
    const percent = (value) => 50 + (50 * value) / this.range;
    const mark = (name, left, width) => {
      const element = document.createElement("i");
      element.className = name;
      element.style.left = `${left}%`;
      if (width !== undefined) element.style.width = `${width}%`;
      track.append(element);
    };
    mark("zero", 50);
    if (!Number.isNaN(low)) mark("range", percent(low), percent(high) - percent(low));
    if (!Number.isNaN(difference)) mark("dot", percent(difference));
    return [track];
  }

  /** Returns all lines as CSV, those of folded datasets too, to four decimals. */
  csv() {
    const [first, second] = this.models;
    const kind = this.atOnce.checked ? "all at once" : "95 %";
    const lines = [["dataset", "prompt", first.label, second.label, "difference",
      `low (${kind}, normal)`, `high (${kind}, normal)`]];
    const add = (dataset, prompt, line) => {
      const { difference, error } = line;
      const ends = [difference - this.reach * error, difference + this.reach * error];
      const numbers = [line.first, line.second, difference, ...ends];
      const rounded = numbers.map((n) => (Number.isNaN(n) ? null : Number(n.toFixed(4))));
      lines.push([dataset, prompt, ...rounded]);
    };
    const { total, datasets } = this.comparison;
    if (total) add("mean", "", total);
    for (const { name, datasetLine, promptLines } of datasets) {
      if (datasetLine) add(name, "", datasetLine);
      promptLines.forEach((line) => add(name, line.name, line));
    }
    return toCsv(lines);
  }
}

const pairTables = [...document.querySelectorAll("section.pairs")].map(
  (section) => new PairTable(section),
);
