"use strict";
// The difference of two models, computed in the page from their answers to each row.
// `pairs.py` packs the answers; `tests/reporting/page_pairs_test.py` holds the numbers
// against those of `evaluation/comparisons.py`.

// Variances below this are rounding errors: all rows differ alike.
const LEAST_VARIANCE = 1e-12;

/** Returns the scores of a model by task; null for a task that it lacks. */
function unpackAnswers(tasks, model) {
  const bytes = Uint8Array.from(atob(model.answers), (c) => c.charCodeAt(0));
  let start = 0;
  return tasks.map(({ numRows, bits, scores }, taskNumber) => {
    if (model.lacks.includes(taskNumber)) return null;
    const answers = new Float64Array(numRows);
    const mask = 2 ** bits - 1;
    for (let row = 0; row < numRows; row++) {
      const bit = row * bits;
      const byte = start + (bit >> 3);
      const scoreNumber =
        bits === 16
          ? bytes[byte] + 256 * bytes[byte + 1]
          : (bytes[byte] >> (8 - bits - (bit & 7))) & mask;
      answers[row] = scores[scoreNumber];
    }
    start += Math.ceil((numRows * bits) / 8);
    return answers;
  });
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const mean = (numbers) => sum(numbers) / numbers.length;

/**
 * Returns the mean over prompts of the differences of two models on one dataset.
 *
 * What varies are rows, as in the tables: a row brings its results under all prompts.
 * So the variance is that of what each row adds to the mean.
 *
 * `prompts` has, for each prompt, the differences by row (`gaps`) and the places of
 * these rows among the `numRows` of the dataset. A single row has no variance: NaN.
 */
function meanOfDataset(prompts, numRows) {
  const means = prompts.map(({ gaps }) => mean(gaps));
  const shares = new Float64Array(numRows);
  prompts.forEach(({ gaps, places }, i) => {
    gaps.forEach((gap, j) => {
      const row = places ? places[j] : j;
      shares[row] += (gap - means[i]) / (prompts.length * gaps.length);
    });
  });
  const squares = sum(shares.map((share) => share * share));
  const variance = numRows > 1 ? (squares * numRows) / (numRows - 1) : NaN;
  return { difference: mean(means), variance };
}

/**
 * Returns the differences of two models: of all datasets, of each, of each prompt.
 *
 * Only tasks that both models have are compared. A dataset of which one of them lacks a
 * task has no mean, and then there is no mean of all datasets either.
 */
function compareModels(data, firstModel, secondModel) {
  const firstAnswers = unpackAnswers(data.tasks, firstModel);
  const secondAnswers = unpackAnswers(data.tasks, secondModel);
  const haveIntervals = !firstModel.isBound && !secondModel.isBound;
  const makeLine = (name, { difference, variance }, first, second) => ({
    name,
    first,
    second,
    difference,
    // No interval where all rows agree: they cannot tell how far others would.
    error: haveIntervals && variance > LEAST_VARIANCE ? Math.sqrt(variance) : NaN,
  });
  const datasets = data.datasets.map(({ name, numRows }, dataset) => {
    const taskNumbers = data.tasks.flatMap((task, i) => (task.dataset === dataset ? [i] : []));
    const sharedNumbers = taskNumbers.filter((i) => firstAnswers[i] && secondAnswers[i]);
    const prompts = sharedNumbers.map((i) => ({
      name: data.tasks[i].prompt,
      gaps: firstAnswers[i].map((score, row) => score - secondAnswers[i][row]),
      places: data.tasks[i].places,
      scores: [mean(firstAnswers[i]), mean(secondAnswers[i])],
    }));
    const promptLines = prompts.map((prompt) => {
      const { name: promptName, gaps, scores } = prompt;
      return makeLine(promptName, meanOfDataset([{ gaps }], gaps.length), ...scores);
    });
    if (sharedNumbers.length < taskNumbers.length) {
      return { name, datasetMean: null, datasetLine: null, promptLines };
    }
    const datasetMean = meanOfDataset(prompts, numRows);
    const scores = [0, 1].map((k) => mean(prompts.map((prompt) => prompt.scores[k])));
    const datasetLine = makeLine(name, datasetMean, ...scores);
    return { name, datasetMean, datasetLine, promptLines };
  });
  let total = null;
  if (datasets.every(({ datasetMean }) => datasetMean)) {
    const difference = mean(datasets.map(({ datasetMean }) => datasetMean.difference));
    const variances = datasets.map(({ datasetMean }) => datasetMean.variance);
    const variance = sum(variances) / datasets.length ** 2;
    const scores = ["first", "second"].map((key) =>
      mean(datasets.map(({ datasetLine }) => datasetLine[key])),
    );
    total = makeLine("mean", { difference, variance }, ...scores);
  }
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

/** Returns the expert with the highest mean on these rows; undefined for a single one. */
function bestExpert(data) {
  return data.numExperts > 1 ? data.models.find(({ isExpert }) => isExpert) : undefined;
}

/** Returns what a reader has to know of two models, a sentence each. */
function cautions(data, firstModel, secondModel) {
  const sentences = [];
  for (const model of new Set([firstModel, secondModel])) {
    if (model.isBound) {
      sentences.push(
        `${model.label} was chosen by these rows: it is a bound and no method, so its` +
          " differences have no intervals.",
      );
    }
    if (model === bestExpert(data)) {
      sentences.push(
        `${model.label} has the highest mean of ${data.numExperts} experts on these` +
          " rows. Who picks it for that chooses by them: its differences are a bound," +
          " too high by luck.",
      );
    }
    if (model.numTrainings > 1) {
      sentences.push(
        `${model.label} is the mean of ${model.numTrainings} trainings: these intervals` +
          " are of rows alone, those of the tables of trainings, too.",
      );
    }
  }
  return sentences;
}
