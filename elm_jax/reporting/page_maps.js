"use strict";
// Maps of experts: sort by a column, filter by name, fold datasets, download.
// The page shows the same numbers without this script. It asks for nothing.

/** Returns whether a name contains every word of a search. */
function hasWords(name, search) {
  const words = search.toLowerCase().split(/\s+/);
  return words.every((word) => name.toLowerCase().includes(word));
}

class ExpertMap {
  constructor(section) {
    this.section = section;
    this.table = section.querySelector("table");
    this.title = section.querySelector("h2").textContent;
    this.body = section.querySelector("tbody.experts");
    const data = JSON.parse(section.querySelector(".values").textContent);
    this.columns = data.columns;
    this.pinned = data.pinned;
    const rows = [...this.body.rows];
    this.rows = data.rows.map(([name, values], i) => ({ name, values, row: rows[i] }));
    const [groupHeads, columnHeads] = this.table.tHead.rows;
    this.heads = [...columnHeads.cells];
    let start = 0;
    this.groups = data.groups.map(([name, count], i) => {
      const group = { name, start, count, head: groupHeads.cells[i + 1] };
      start += count;
      return group;
    });
    this.style = document.head.appendChild(document.createElement("style"));
    this.folded = new Set();
    this.sorted = { column: 0, isDescending: true }; // as in the page
    this.nameSearch = section.querySelector(".by-name");
    this.datasetSearch = section.querySelector(".by-dataset");
    this.foldAll = section.querySelector(".fold-all");
    this.count = section.querySelector("output");
    this.addControls();
    const isFolded = section.classList.contains("folded");
    if (isFolded) this.foldable.forEach((group) => this.folded.add(group));
    this.show();
    section.querySelector(".tools").hidden = false;
    // Names of datasets stay in sight to the right of the names of experts.
    new ResizeObserver(() => {
      this.table.style.setProperty("--names", `${this.heads[0].offsetWidth}px`);
    }).observe(this.heads[0]);
  }

  get foldable() {
    return this.groups.filter((group) => group.count > 1);
  }

  addControls() {
    this.heads.forEach((head, i) => makeButton(head, () => this.sort(i - 1)));
    for (const group of this.foldable) {
      group.button = makeButton(group.head, () => {
        this.fold([group], !this.folded.has(group));
      });
    }
    this.nameSearch.addEventListener("input", () => this.show());
    this.datasetSearch.addEventListener("input", () => this.show());
    this.foldAll.hidden = !this.foldable.length;
    this.foldAll.addEventListener("click", () => {
      this.fold(this.foldable, this.foldable.some((group) => !this.folded.has(group)));
    });
    this.section.querySelector(".csv").addEventListener("click", () => {
      saveFile(fileName(this.title), this.csv());
    });
  }

  /** Sorts by a column, or by names for -1; in reverse if it is sorted so already. */
  sort(column) {
    const isSame = this.sorted.column === column;
    const isDescending = isSame ? !this.sorted.isDescending : column >= 0;
    this.sorted = { column, isDescending };
    const key = ({ name, values }) => (column < 0 ? name : values[column]);
    this.rows.sort((row, next) => compareValues(key(row), key(next), isDescending));
    this.body.append(...this.rows.map(({ row }) => row));
    this.show();
  }

  fold(groups, isFolded) {
    for (const group of groups) {
      if (isFolded) this.folded.add(group);
      else this.folded.delete(group);
    }
    this.show();
  }

  isShown(group) {
    return !group.name || hasWords(group.name, this.datasetSearch.value);
  }

  /** Returns the numbers of the columns that are shown. */
  shownColumns() {
    return this.groups.filter((group) => this.isShown(group)).flatMap((group) => {
      const count = this.folded.has(group) ? 1 : group.count;
      return Array.from({ length: count }, (_, i) => group.start + i);
    });
  }

  show() {
    for (const { name, row } of this.rows) {
      row.hidden = !hasWords(name, this.nameSearch.value);
    }
    const rules = [];
    for (const group of this.groups) {
      const isFolded = this.folded.has(group);
      const isShown = this.isShown(group);
      const numShown = !isShown ? 0 : isFolded ? 1 : group.count;
      if (numShown < group.count) {
        // Columns count from 1, and the first is that of names.
        const [first, last] = [group.start + numShown + 2, group.start + group.count + 1];
        const cells = `:nth-child(n + ${first}):nth-child(-n + ${last})`;
        rules.push(`#${this.table.id} tr:not(.groups) > ${cells} { display: none; }`);
      }
      group.head.hidden = !isShown;
      group.head.colSpan = Math.max(1, numShown);
      group.button?.setAttribute("aria-expanded", String(!isFolded));
    }
    this.style.textContent = rules.join("\n");
    this.heads.forEach((head, i) => {
      const isSorted = i - 1 === this.sorted.column;
      const order = this.sorted.isDescending ? "descending" : "ascending";
      if (isSorted) head.setAttribute("aria-sort", order);
      else head.removeAttribute("aria-sort");
    });
    const areAllFolded = this.foldable.every((group) => this.folded.has(group));
    this.foldAll.textContent = areAllFolded ? "Show all prompts" : "Fold all datasets";
    const numShown = this.rows.filter(({ row }) => !row.hidden).length;
    const shownOf = numShown < this.rows.length ? `${numShown} of ` : "";
    this.count.textContent = `${shownOf}${this.rows.length} experts`;
  }

  /** Returns what is shown as CSV, to four decimals. */
  csv() {
    const columns = this.shownColumns();
    const nameOf = (column) => {
      const group = this.groups.findLast(({ start }) => start <= column);
      return [group.name, this.columns[column]].filter(Boolean).join(": ");
    };
    const shown = this.rows.filter(({ row }) => !row.hidden);
    const lines = [...this.pinned, ...shown.map(({ name, values }) => [name, values])];
    return toCsv([
      ["expert", ...columns.map(nameOf)],
      ...lines.map(([name, values]) => [name, ...columns.map((i) => values[i])]),
    ]);
  }
}

const expertMaps = [...document.querySelectorAll("section.map")].map(
  (section) => new ExpertMap(section),
);
document.getElementById("folding").remove(); // from now on, each map has its own rules
