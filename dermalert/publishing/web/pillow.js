// Pixels as Pillow makes them: its resampling in 8 bits, and the signals that a release abstains by.

const BITS = 22; // of a weight behind the point, as Pillow has it for 8-bit pixels
const STRIP = 256; // rows that are read at once: a whole photo would take four bytes a pixel

const sinc = x => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// By the numbers that Pillow gives them: how far each reaches, and its weight at a distance.
const FILTERS = {
  1: [3, x => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
  2: [1, x => Math.max(0, 1 - Math.abs(x))],
  3: [2, x => cubic(Math.abs(x))],
  4: [0.5, x => (x > -0.5 && x <= 0.5 ? 1 : 0)],
};

const BICUBIC = 3, BOX = 4;

// For each pixel of a side of `to` pixels: the first of `from` pixels that it is made of, and their weights.
function weights(from, to, filter) {
  const [reach, weight] = FILTERS[filter];
  const scale = from / to, wide = Math.max(1, scale);
  return Array.from({length: to}, (_, pixel) => {
    const middle = (pixel + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach * wide + 0.5));
    const end = Math.min(from, Math.trunc(middle + reach * wide + 0.5));
    const some = Array.from({length: end - first}, (_, i) => weight((i + first - middle + 0.5) * (1 / wide)));
    const sum = some.reduce((total, each) => total + each, 0);
    const whole = each => Math.trunc((each / sum) * 2 ** BITS + (each / sum < 0 ? -0.5 : 0.5));
    return {first, weights: Int32Array.from(some, whole)};
  });
}

const clipped = sum => Math.max(0, Math.min(255, sum >> BITS));

// Sums of pixels by weights: of `lines` lines, each at `start + line * next`, whose pixels lie `step` apart.
function pass(source, target, sides, {lines, next, step, channels, targetNext, targetStep}) {
  for (let line = 0; line < lines; line++) {
    for (let pixel = 0; pixel < sides.length; pixel++) {
      const {first, weights} = sides[pixel];
      let red = 1 << (BITS - 1), green = red, blue = red;
      for (let i = 0, at = line * next + first * step; i < weights.length; i++, at += step) {
        red = (red + source[at] * weights[i]) | 0;
        green = (green + source[at + 1] * weights[i]) | 0;
        blue = (blue + source[at + 2] * weights[i]) | 0;
      }
      const at = line * targetNext + pixel * targetStep;
      target[at] = clipped(red);
      target[at + 1] = clipped(green);
      target[at + 2] = clipped(blue);
    }
  }
}

// Pictures of the given sizes, {width, height, filter}, as Pillow resizes one to them: RGB, a Uint8Array each. `rows`
// gives the pixels of some rows of the source, `channels` (3 or 4) bytes each.
export function resized({width, height, channels, rows}, sizes) {
  const across = sizes.map(size => weights(width, size.width, size.filter));
  const narrow = sizes.map(size => new Uint8Array(height * size.width * 3));
  for (let top = 0; top < height; top += STRIP) {
    const lines = Math.min(STRIP, height - top), source = rows(top, lines);
    sizes.forEach((size, i) =>
      pass(source, narrow[i].subarray(top * size.width * 3), across[i], {
        lines, next: width * channels, step: channels, targetNext: size.width * 3, targetStep: 3,
      }));
  }
  return sizes.map((size, i) => {
    const pixels = new Uint8Array(size.width * size.height * 3);
    pass(narrow[i], pixels, weights(height, size.height, size.filter), {
      lines: size.width, next: 3, step: size.width * 3, targetNext: 3, targetStep: size.width * 3,
    });
    return pixels;
  });
}

// RGB pixels as a source of `resized`.
export const inMemory = (pixels, width, height) => ({
  width, height, channels: 3, rows: (top, lines) => pixels.subarray(top * width * 3, (top + lines) * width * 3),
});

const THUMBNAIL = 128, COARSE = 8;

export const SIZE_OF_SIGNALS = {width: THUMBNAIL, height: THUMBNAIL, filter: BICUBIC};

function deviation(values) {
  let sum = 0, squares = 0;
  for (const each of values) sum += each;
  const mean = sum / values.length;
  for (const each of values) squares += (each - mean) ** 2;
  return Math.sqrt(squares / values.length);
}

function quantile(values, share) {
  const sorted = Float64Array.from(values).sort(), at = share * (sorted.length - 1), below = Math.floor(at);
  return sorted[below] + (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]) * (at - below);
}

// What an image shows without a model, see `abstention.signals`; by its thumbnail of SIZE_OF_SIGNALS.
export function signals(thumbnail, width, height) {
  const side = THUMBNAIL, grey = new Float64Array(side * side);
  for (let i = 0; i < grey.length; i++) {
    const sum = thumbnail[3 * i] * 19595 + thumbnail[3 * i + 1] * 38470 + thumbnail[3 * i + 2] * 7471;
    grey[i] = ((sum + 0x8000) >> 16) / 255;
  }
  const edges = [];
  for (let y = 1; y < side - 1; y++)
    for (let x = 1; x < side - 1; x++) {
      const at = y * side + x;
      edges.push(4 * grey[at] - grey[at - side] - grey[at + side] - grey[at - 1] - grey[at + 1]);
    }
  const [coarse] = resized(inMemory(thumbnail, side, side), [{width: COARSE, height: COARSE, filter: BOX}]);
  const spread = channel => deviation(Array.from({length: COARSE ** 2}, (_, i) => coarse[3 * i + channel] / 255));
  return {
    side: Math.min(width, height),
    light: quantile(grey, 0.95),
    contrast: Math.max(...[0, 1, 2].map(spread)),
    detail: deviation(edges) / Math.max(deviation(grey), 1 / 255),
  };
}
