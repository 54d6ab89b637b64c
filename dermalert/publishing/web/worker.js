// The model, in a worker: it checks itself on the reference images of its release, then assesses one file after another.
// Takes {about} once, and {id, file} for each picture; gives {ready} or {refused}, and {id, ...} for each.

import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";
import {Unreadable, open} from "./picture.js";
import {SIZE_OF_SIGNALS, inMemory, resized, signals} from "./pillow.js";

const at = name => new URL(name, import.meta.url);
let about, session, statistics;

async function read(name) {
  const answer = await fetch(at(name));
  if (!answer.ok) throw new Error(`${name} is not there`);
  return new Uint8Array(await answer.arrayBuffer());
}

// A file of the release, if it is the one that the page was made with.
async function readOfRelease(name) {
  const bytes = await read(name);
  if (!crypto.subtle) return bytes; // only https has it; the reference images are asked in any case
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = Array.from(sum, byte => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== about.fingerprints[name]) throw new Error(`${name} is not the file that this page was made with`);
  return bytes;
}

async function unpacked(name) {
  const bytes = await read(name);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // a server may have unpacked it
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const TYPES = {U8: Uint8Array, F32: Float32Array, F64: Float64Array};

// The tensors of a safetensors file, by name.
function tensors(bytes) {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const table = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  delete table.__metadata__;
  return Object.fromEntries(Object.entries(table).map(([name, {dtype, shape, data_offsets: [from, to]}]) => {
    const data = bytes.slice(8 + length + from, 8 + length + to).buffer;
    return [name, {shape, data: new TYPES[dtype](data)}];
  }));
}

async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that few static hosts send; files are shared out among workers
  const names = about.parts;
  const [binary, model, reference, measured] = await Promise.all([
    unpacked(about.runtime), readOfRelease(names.model), readOfRelease(names.reference),
    names.statistics && readOfRelease(names.statistics),
  ]);
  ort.env.wasm.wasmBinary = binary;
  session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  statistics = measured && tensors(measured);
  return parityError(tensors(reference));
}

// The largest difference of a probability of the reference images from the recorded one.
async function parityError({images, probabilities}) {
  const [n, height, width] = images.shape, labels = about.labels.length;
  let worst = 0;
  for (let i = 0; i < n; i++) {
    const pixels = images.data.subarray(i * height * width * 3, (i + 1) * height * width * 3);
    const answer = await predict(inMemory(pixels, width, height));
    answer.probabilities.forEach((p, label) => {
      const off = Math.abs(p - probabilities.data[i * labels + label]);
      worst = Math.max(worst, Number.isNaN(off) ? 1 : off);
    });
  }
  return worst;
}

async function predict(picture) {
  const {processor} = about, size = {width: processor.width, height: processor.height, filter: processor.resample};
  const [pixels, thumbnail] = resized(picture, [size, SIZE_OF_SIGNALS]);
  const input = new ort.Tensor("float32", normalised(pixels), [1, 3, size.height, size.width]);
  const {logits, features} = await session.run({pixel_values: input});
  const probabilities = softmax(logits.data);
  const abstained = reason(probabilities, {...signals(thumbnail, picture.width, picture.height)}, features.data);
  return {probabilities, abstained};
}

// Channels first, as the release's processor scales and normalises them.
function normalised(pixels) {
  const {scale, mean, std} = about.processor, plane = pixels.length / 3, out = new Float32Array(pixels.length);
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < plane; i++)
      out[channel * plane + i] = (pixels[3 * i + channel] * scale - mean[channel]) / std[channel];
  return out;
}

function softmax(logits) {
  const most = Math.max(...logits), parts = Array.from(logits, each => Math.exp(each - most));
  const sum = parts.reduce((total, each) => total + each, 0);
  return parts.map(each => Math.fround(each / sum));
}

// Why an image cannot be assessed, see `Abstention.failing`; null where it can.
function reason(probabilities, values, features) {
  if (!probabilities.every(Number.isFinite)) return about.texts.no_number;
  if (!about.abstention) return null;
  const {thresholds, reasons} = about.abstention;
  values.distance = distance(features);
  for (const [name, words] of Object.entries(reasons)) {
    const value = values[name], threshold = thresholds[name];
    if (name === "distance" ? value <= threshold : value >= threshold) continue;
    return words.replaceAll("{value:.0f}", value.toFixed(0)).replaceAll("{threshold:.0f}", threshold.toFixed(0));
  }
  return null;
}

// How far features are from those of the training images, see `Abstention.distances`.
function distance(features) {
  const {mean, scale, basis, variance, noise} = statistics, d = features.length;
  const deviations = Float64Array.from(features, (each, i) => (each - mean.data[i]) / scale.data[i]);
  let all = 0, along = 0, squares = 0;
  for (const each of deviations) all += each * each;
  variance.data.forEach((spread, k) => {
    let part = 0;
    for (let i = 0; i < d; i++) part += deviations[i] * basis.data[k * d + i];
    along += part * part;
    squares += (part * part) / spread;
  });
  return Math.sqrt((squares + Math.max(all - along, 0) / noise.data[0]) / d);
}

async function assess(file) {
  let picture;
  try {
    picture = await open(file, about);
    return await predict(picture);
  } catch (error) {
    if (error instanceof Unreadable) return {problem: error.message};
    console.error(error);
    return {problem: about.texts.no_memory};
  } finally {
    picture?.close();
  }
}

self.onmessage = async ({data}) => {
  if (data.file) {
    self.postMessage({id: data.id, ...(await assess(data.file))});
    return;
  }
  about = data.about;
  try {
    const error = await load();
    self.postMessage(error <= about.tolerance ? {ready: true} : {refused: about.texts.parity.replace("{error}", error.toPrecision(2))});
  } catch (error) {
    console.error(error);
    self.postMessage({refused: about.texts.damaged.replace("{error}", error.message)});
  }
};
