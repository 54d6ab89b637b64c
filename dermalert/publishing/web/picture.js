// A file as a picture: what it is by its first bytes, whether it is whole and of a size that is read, and its pixels.
// What is refused is refused in the words of the Space that runs on a server.

export class Unreadable extends Error {}

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, Math.min(to, bytes.length)));
const view = bytes => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function unlike(why) {
  return new Unreadable(`the file cannot be read as an image: ${why}.`);
}
const DAMAGED = "it is damaged or cut short";
const unfit = why => new Unreadable(`the file cannot be read: ${why}`);

// Of a WebP its size, and whether it moves.
function webp(bytes) {
  const kind = text(bytes, 12, 16), data = view(bytes);
  if (bytes.length < data.getUint32(4, true) + 8) throw unlike(DAMAGED);
  const three = at => data.getUint16(at, true) + 65536 * data.getUint8(at + 2);
  if (kind === "VP8X") return {width: three(24) + 1, height: three(27) + 1, moves: bytes[20] & 2};
  if (kind === "VP8L") {
    const packed = data.getUint32(21, true);
    return {width: (packed & 0x3fff) + 1, height: ((packed >> 14) & 0x3fff) + 1};
  }
  return {width: data.getUint16(26, true) & 0x3fff, height: data.getUint16(28, true) & 0x3fff};
}

function png(bytes) {
  const data = view(bytes), size = {width: data.getUint32(16), height: data.getUint32(20)};
  for (let at = 8; at + 12 <= bytes.length; at += 12 + data.getUint32(at)) {
    const kind = text(bytes, at + 4, at + 8);
    if (kind === "acTL") size.moves = true;
    if (kind === "IEND") return size;
  }
  throw unlike(DAMAGED);
}

function bmp(bytes) {
  const data = view(bytes), long = data.getUint32(14, true) > 12;
  if (bytes.length < data.getUint32(2, true)) throw unlike(DAMAGED);
  const at = (place, short) => Math.abs(long ? data.getInt32(place, true) : data.getUint16(short, true));
  return {width: at(18, 18), height: at(22, 20)};
}

// Up to its end: of one that is cut short a browser shows the part that is there.
function jpeg(bytes) {
  const data = view(bytes), size = {};
  let at = 2;
  while (at + 2 <= bytes.length) {
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0xff) at++; // of a scan, or between segments
    else if (marker === 0xd9) return size;
    else if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) at += 2; // has no length
    else {
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker))
        Object.assign(size, {height: data.getUint16(at + 5), width: data.getUint16(at + 7), channels: bytes[at + 9]});
      at += 2 + data.getUint16(at + 2);
    }
  }
  throw unlike(DAMAGED);
}

const READERS = [
  [bytes => bytes[0] === 0xff && bytes[1] === 0xd8, jpeg],
  [bytes => text(bytes, 0, 4) === "\x89PNG", png],
  [bytes => text(bytes, 0, 2) === "BM", bmp],
  [bytes => text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP", webp],
];

const TIFF = ["II*\0", "II\0*", "II+\0", "MM\0*", "MM*\0", "MM\0+"];
const DICOM_BARE = /^[\x02\x08]\0[\x00\x01\x05\x08\x16]\0/;

// What a file is that is not read here, and what to do.
function other(bytes, kinds) {
  const head = text(bytes, 0, 32), plain = text(bytes, 0, 4096).replaceAll("\0", "").toLowerCase();
  if (!bytes.length) return "it is empty";
  if (TIFF.includes(head.slice(0, 4))) return `it is a TIFF, which browsers do not read: ${kinds.save}`;
  const begun = kinds.begins.find(([beginnings]) => beginnings.some(each => head.startsWith(each)));
  if (begun) return `it is ${begun[1]}`;
  if (text(bytes, 128, 132) === "DICM" || DICOM_BARE.test(head)) return `it is a DICOM file: ${kinds.dicom}`;
  if (head.slice(4, 8) === "ftyp") {
    const brands = [8, 16, 20, 24].map(at => head.slice(at, at + 4));
    const known = kinds.brands.find(([names]) => brands.some(each => names === each || names.split(" ").includes(each)));
    return `it is ${known?.[1] ?? kinds.video}`;
  }
  if (plain.slice(0, 1024).includes("%pdf-")) return "it is a PDF document: save its picture as JPEG or PNG";
  if (plain.includes("<svg")) return `it is an SVG drawing: ${kinds.save}`;
  if (/<html|<!doctype html/.test(plain)) return "it is a web page: save the picture itself as JPEG or PNG";
  return `it is none of JPEG, PNG, BMP and WebP: ${kinds.save}`;
}

function check({width, height, channels, moves}, {limits, kinds}) {
  if (moves) throw unlike(`it is an animation: ${kinds.frame}`);
  if (channels === 4) throw unlike("its colours are those of print (CMYK): save it as JPEG or PNG in RGB");
  if (!width || !height) throw unlike(DAMAGED);
  const many = n => n.toLocaleString("en");
  if (width * height > limits.pixels || Math.max(width, height) > limits.side)
    throw unfit(`it has ${width} x ${height} pixels; shrink it below ${many(limits.pixels)}, and its sides below ` +
      `${many(limits.side + 1)}.`);
  if (Math.max(width, height) > limits.aspect * Math.min(width, height))
    throw unfit(`it has ${width} x ${height} pixels: too narrow to show a lesion.`);
}

// The picture in a file, upright, as a source of `pillow.resized`; `close` it afterwards. Transparent parts lie on
// white; no profile of colours is applied, as Pillow applies none.
export async function open(file, rules) {
  if (file.size > rules.limits.bytes)
    throw new Unreadable(`the file has ${Math.round(file.size / 1e6).toLocaleString("en")} MB: shrink it below ` +
      `${rules.limits.bytes / 1e6} MB.`);
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Unreadable("the file cannot be read: it was moved or removed.");
  }
  const reader = READERS.find(([fits]) => fits(bytes));
  if (!reader) throw unlike(other(bytes, rules.kinds));
  let size, bitmap;
  try {
    size = reader[1](bytes);
  } catch (error) {
    throw error instanceof Unreadable ? error : unlike(DAMAGED); // a number behind its end
  }
  check(size, rules);
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), {colorSpaceConversion: "none", premultiplyAlpha: "none"});
  } catch {
    throw unlike(DAMAGED);
  }
  const {width, height} = bitmap, canvas = new OffscreenCanvas(width, 1);
  const rows = (top, lines) => {
    canvas.height = lines;
    const paper = canvas.getContext("2d", {alpha: false, willReadFrequently: true});
    paper.fillStyle = "white";
    paper.fillRect(0, 0, width, lines);
    paper.drawImage(bitmap, 0, -top);
    return paper.getImageData(0, 0, width, lines).data;
  };
  return {width, height, channels: 4, rows, close: () => bitmap.close()};
}
