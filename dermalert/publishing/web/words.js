// What is said of a prediction, word for word as the Space that runs on a server says it: `prediction`, `release` and
// `page.markup` there. All functions take what the release says of itself, `about`.

// A number with so many digits, as Python writes it: a half goes to the even digit.
export function fixed(value, digits) {
  const exact = value.toFixed(Math.min(100, digits + 60)), at = exact.length - 60;
  const cut = digits ? exact.slice(0, at) : exact.slice(0, at - 1);
  const half = /^50*$/.test(exact.slice(at)) && "02468".includes(cut.at(-1));
  return half ? cut : value.toFixed(digits);
}

const percent = (value, digits) => `${fixed(100 * value, digits)}%`;

// A probability in percent; one that is not 0 is never shown as 0, and one below 1 never as 1.
export function share(value, digits = 1) {
  const least = 10 ** -(digits + 2);
  if (value > 0 && value < least / 2) return `<${percent(least, digits)}`;
  return 1 - least / 2 <= value && value < 1 ? `>${percent(1 - least, digits)}` : percent(value, digits);
}

// How many digits behind the point show three digits of a threshold in percent: one at least, no zeros.
function thresholdDigits(threshold) {
  const [digits, exponent] = (100 * threshold).toExponential(2).split("e");
  return Math.max(1, digits.replace(/\.?0+$/, "").replace(".", "").length - 1 - Number(exponent));
}

export const thresholdShare = threshold => share(threshold, thresholdDigits(threshold));

// A probability and a threshold in percent, with so many digits that what is below does not look as if reached.
function shares(value, threshold) {
  let digits = thresholdDigits(threshold);
  const most = digits + 7;
  while (digits < most && value < threshold && share(value, digits) === share(threshold, digits)) digits++;
  return [share(value, digits), share(threshold, digits)];
}

const capital = text => text[0].toUpperCase() + text.slice(1);
const sum = values => values.reduce((total, each) => total + each, 0);

export const stateWord = (state, about) => about.states[state].replace("{label}", about.alert.label);

// The prediction of probabilities, in the order of the labels, and of why the release abstains (null where it does not).
export function predict(about, probabilities, abstained) {
  const order = about.labels.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const byLabel = Object.fromEntries(order.map(i => [about.labels[i], probabilities[i]]));
  const {alert, attention: point, groups} = about, watched = byLabel[alert.label];
  const grouped = ["malignant", "precursor"].flatMap(name => groups[name] ?? []);
  const attention = point && sum(point.labels.map(label => byLabel[label]));
  const raised = alert.threshold === null ? null : watched >= alert.threshold;
  const asks = Boolean(point && point.threshold !== null && attention >= point.threshold);
  let state = "none";
  if (abstained || (raised === null && !asks)) state = "cannot_assess";
  else if (raised || asks) state = raised ? "melanoma_alert" : "malignant_likely";
  const multiples = [];
  if (alert.threshold) multiples.push(watched / alert.threshold);
  if (point?.threshold) multiples.push(attention / point.threshold);
  return {
    state,
    alert: abstained || raised === null ? null : state === "melanoma_alert",
    abstained: abstained ?? null,
    sentence: abstained ? `Cannot be assessed: ${abstained}` : sentence(about, state, watched, attention),
    probabilities: byLabel,
    malignant: grouped.length ? sum(grouped.map(label => byLabel[label])) : null,
    attention: point ? attention : null,
    urgency: multiples.length ? Math.max(...multiples) : null,
    watched,
  };
}

function sentence({alert, attention: point}, state, probability, attention) {
  const {label} = alert, measured = `the probability of ${label} is`;
  if (state === "cannot_assess")
    return `Cannot be assessed: this release has no alert threshold; ${measured} ${share(probability)}.`;
  if (state === "malignant_likely") {
    const [value, threshold] = shares(attention, point.threshold), likely = attention > 0.5 ? "likely" : "possible";
    return alert.threshold === null
      ? `Needs attention: ${label}, a carcinoma or precursor is ${likely}: ${value} together (attention threshold ` +
          `${threshold}). This release has no alert threshold.`
      : `Needs attention: no ${label} alert, but a carcinoma or precursor is ${likely}: ${value} together with ` +
          `${label} (attention threshold ${threshold}).`;
  }
  const [value, threshold] = shares(probability, alert.threshold);
  const word = state === "melanoma_alert" ? `${capital(label)} alert` : `No ${label} alert`;
  return `${word}: ${measured} ${value}; alert threshold ${threshold}.`;
}

// How probable what an alert is for is, one of the grades; "" where there is no alert.
export const grade = (about, {state, watched}) =>
  state === "melanoma_alert" ? Object.keys(about.grades).find(name => watched >= about.grades[name]) : "";

const STEPS = {high: 3, middle: 2, low: 1};

export const icon = (about, state, graded) => (about.icons[state] ?? "").repeat(STEPS[graded] ?? 1);

function listed(names, last = "and") {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} ${last} ${names.at(-1)}` : names.join("");
}

// How many of the held-out lesions with a like probability were what was looked for: parts of a sentence, and its note.
export function frequencies(about, {state, attention, watched}) {
  if (!about.frequencies) return [];
  const {alert, attention: more} = about.frequencies, lines = [ofHundred(alert, watched, about.alert.label)];
  if (state === "malignant_likely") lines.unshift(ofHundred(more, attention, listed(about.attention.labels, "or")));
  return lines.filter(Boolean);
}

const inside = (value, {low, high}) => value >= low && (value < high || high === 1);

function ofHundred({bands, lesions, share: common}, probability, name) {
  const band = bands.find(each => inside(probability, each));
  if (!band) return null;
  return {
    before: `Of 100 lesions scored like this (${band.from} to ${band.to}%), `,
    rate: band.rate,
    after: ` were ${name}.`,
    note: `From ${band.lesions.toLocaleString("en")} of the ${lesions.toLocaleString("en")} held-out lesions, of ` +
      `which ${fixed(100 * common, 0)} in 100 were ${name}: where it is rarer, fewer are. In brackets the 95% interval.`,
  };
}

// How probable any malignant diagnosis or precursor is; "" where the release does not name these.
export function secondLine({alert: {label}, attention: point, groups}, {alert, malignant, attention}) {
  const value = point ? attention : malignant;
  if (value === null) return "";
  const names = point ? point.labels : ["malignant", "precursor"].flatMap(name => groups[name] ?? []);
  const others = names.filter(name => name !== label);
  const subject = capital(`${listed([label, ...others])} together have a probability of`);
  if (point && point.threshold !== null) {
    const [probability, threshold] = shares(value, point.threshold);
    return `${subject} ${probability}; attention threshold ${threshold}.`;
  }
  if (alert !== false) return `${subject} ${share(value)}.`;
  const more = value > 0.5 ? ": more likely than not, it is one of them" : "";
  return `${subject} ${share(value)}${more}. The alert is for ${label} alone; it says nothing of ${listed(others)}.`;
}

// The line of a file in the list of a batch.
export function verdict(about, prediction, state) {
  const word = capital(stateWord(state, about));
  if (!prediction || state === "cannot_assess") return word;
  const value = about.attention ? prediction.attention : prediction.malignant;
  const more = value === null ? "" : `; malignant or precursor ${share(value)}`;
  return `${word}: ${about.alert.label} ${share(prediction.watched)}${more}`;
}
