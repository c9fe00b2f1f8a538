import { JsonStrings } from './json-strings.ts';

/** Longer strings are left out, in bytes as they are written. */
export const outlinedStringBytesMin = 1_024;
/** A shorter text is parsed as a whole, in bytes. */
const outlinedBytesMin = 4 * outlinedStringBytesMin;
/** So many more bytes of a text than were left out by then are looked at one by one before it is not worth while. */
const lookedBytesMax = 2 * outlinedStringBytesMin;

const quote = 0x22;
const colon = 0x3a;

/**
 * A JSON text as `JSON.parse` has it, but that long strings may be null instead, unless they are names of members: for
 * whoever needs the form of a message and not what a file or a page in it says. They are looked through and never made:
 * in most long messages one of them is nearly all.
 * @throws SyntaxError where `JSON.parse` does
 */
export function parseOutline(bytes: Buffer): unknown {
  if (bytes.length < outlinedBytesMin) return parseWhole(bytes);
  const strings = new JsonStrings(bytes);
  let outline = '';
  let kept = 0;
  let leftOut = 0;
  for (let at = 0; ; ) {
    const start = nextQuote(bytes, at, 2 * leftOut + lookedBytesMax);
    if (start < 0) return parseWhole(bytes);
    if (start === bytes.length) break;
    const end = strings.end(start + 1);
    // What is wrong with it, the parser tells.
    if (end < 0) return parseWhole(bytes);
    at = end + 1;
    if (at - start <= outlinedStringBytesMin || isName(bytes, at)) continue;
    outline += `${bytes.toString('utf8', kept, start)}null`;
    kept = at;
    leftOut += at - start;
  }
  return JSON.parse(outline + bytes.toString('utf8', kept));
}

function parseWhole(bytes: Buffer): unknown {
  return JSON.parse(bytes.toString('utf8'));
}

/** The next quote from `from` on, or the length where there is none; -1 where that is not worth while to look for. */
function nextQuote(bytes: Buffer, from: number, until: number): number {
  const to = Math.min(bytes.length, Math.max(from, until));
  let at = from;
  while (at < to && bytes[at] !== quote) at++;
  return at === to && to < bytes.length ? -1 : at;
}

function isName(bytes: Buffer, behind: number): boolean {
  let at = behind;
  for (let byte = bytes[at]; byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09; ) byte = bytes[++at];
  return bytes[at] === colon;
}
