"use strict";
// What the tables of a page share: sorting, buttons, and downloads as CSV.

/** Compares values for a sort; what is missing comes last in either direction. */
function compareValues(value, otherValue, isDescending) {
  if (value === null || otherValue === null) {
    return (value === null) - (otherValue === null);
  }
  const order =
    typeof value === "string"
      ? (value > otherValue) - (value < otherValue)
      : value - otherValue;
  return isDescending ? -order : order;
}

/** Returns lines as CSV, in which spreadsheet programs take no name for a formula. */
function toCsv(lines) {
  const cell = (value) => {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

/** Lets the reader save a text as a file. */
function saveFile(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Returns a name for the file of a table, made of the table's title. */
function fileName(title) {
  return `${title.toLowerCase().replace(/[^a-z0-9]+/g, "_")}.csv`;
}

/** Puts the content of an element into a new button within it; returns the button. */
function makeButton(element, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...element.childNodes);
  button.addEventListener("click", act);
  element.append(button);
  return button;
}
