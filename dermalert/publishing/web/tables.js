// The rows of a batch in the order of their urgency, as CSV and as JSON, with the columns of `dermalert_space.tables`.
// A row is {file, state, prediction, problem}.

function rank({prediction, state}) {
  if (!prediction) return [3, 0];
  if (prediction.urgency !== null && (state === "melanoma_alert" || state === "malignant_likely"))
    return [0, -prediction.urgency];
  if (state === "cannot_assess") return [1, Number.isFinite(prediction.watched) ? -prediction.watched : 0];
  return [2, -(prediction.attention ?? prediction.malignant ?? prediction.watched)];
}

export function byUrgency(rows) {
  const ranked = rows.map(row => [rank(row), row]);
  ranked.sort(([[a, x]], [[b, y]]) => a - b || x - y);
  return ranked.map(([, row]) => row);
}

// What cannot be seen, or turns the line round, replaced.
const printable = text => text.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, "\ufffd");

function cell(value) {
  if (typeof value === "number") return String(value);
  let text = printable(String(value ?? ""));
  if (/^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text) && typeof value === "string") text = `'${text}`;
  return `"${text.replaceAll('"', '""')}"`;
}

const finite = value => (Number.isFinite(value) ? value : null);

function record({file, state, prediction: p, problem}, about) {
  return {
    file, state, sentence: p?.sentence ?? null, alert: p?.alert ?? null, refused: p?.abstained ?? null,
    problem: problem ?? null,
    [`${about.alert.label} probability`]: finite(p?.watched),
    "malignant probability": finite(p?.malignant),
    "attention probability": finite(p?.attention),
    diagnosis: p && !p.abstained ? Object.keys(p.probabilities)[0] : null,
    probabilities: p && Object.fromEntries(Object.entries(p.probabilities).map(([name, each]) => [name, finite(each)])),
  };
}

export function asCsv(rows, about) {
  const heads = ["file", "state", "sentence", "alert", "refused", "problem", `${about.alert.label} probability`,
    "malignant probability", "attention probability", "diagnosis", ...about.labels,
    "alert threshold", "attention threshold", "release", "tag"];
  const all = [about.alert.threshold, about.attention?.threshold ?? null, about.release, about.tag];
  const lines = rows.map(row => {
    const {probabilities, ...cells} = record(row, about);
    return [...Object.values(cells), ...about.labels.map(label => probabilities?.[label] ?? null), ...all];
  });
  return [heads, ...lines].map(line => `${line.map(cell).join(",")}\n`).join("");
}

export function asJson(rows, about) {
  const {release, tag, alert, attention} = about, files = rows.map(row => record(row, about));
  return JSON.stringify({notice: about.texts.notice, release, tag, alert, attention, files}, null, 1);
}
