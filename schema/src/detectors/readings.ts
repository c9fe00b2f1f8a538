import { findHiddenText, isAscii, mayHideText } from './hidden-text.ts';
import { pieceAt } from './piece-at.ts';
import { TextSigns } from './text-signs.ts';

/**
 * Other ways to read a text than as it stands: without what is hidden and in compatibility form, with escapes undone,
 * with what stands in it in base64 or hexadecimal. Detectors look at these too, so that one way to write a thing is as
 * good as another, and every place found in one is told as the place in the text itself.
 */

/** A part of a reading and what of the text it stands for. */
interface Piece {
  /** Where it begins in the reading. */
  readonly at: number;
  readonly length: number;
  readonly start: number;
  readonly end: number;
  /** Whether it reads otherwise than it is written. */
  readonly isChanged: boolean;
}

interface Place {
  readonly start: number;
  readonly end: number;
}

interface Replacement extends Place {
  readonly text: string;
}

/** How far around something changed a reading reaches, in characters: longer than nearly all that is looked for. */
const reach = 1_024;
/** Encodings within encodings, and escapes within escapes. */
const depthMax = 3;
const roundsMax = 3;
/** Compatibility forms of some characters are long; nothing sensible is written in those. */
const growthMax = 4;

export class Reading {
  readonly text: string;
  /** Undoes an encoding, in which nobody writes by chance. */
  readonly isDecoded: boolean;
  readonly #pieces: readonly Piece[];
  readonly #source: Reading | undefined;

  constructor(text: string, isDecoded: boolean, pieces: readonly Piece[], source: Reading | undefined) {
    this.text = text;
    this.isDecoded = isDecoded || source?.isDecoded === true;
    this.#pieces = pieces;
    this.#source = source;
  }

  /** The share of characters that read otherwise than they are written, 0 to 1. */
  changedShare(start: number, end: number): number {
    let changed = 0;
    for (let index = pieceAt(this.#pieces, start); index < this.#pieces.length; index += 1) {
      const piece = this.#pieces[index];
      if (piece === undefined || piece.at >= end) break;
      if (!piece.isChanged) continue;
      changed += Math.min(end, piece.at + piece.length) - Math.max(start, piece.at);
      // What was taken out is a change too.
      if (piece.length === 0 && piece.at > start) changed += 1;
    }
    return changed / Math.max(1, end - start);
  }

  /** The place in the text of what stands at `start` in this reading. */
  placeOf(start: number, end: number): Place {
    const first = this.#pieces[pieceAt(this.#pieces, start)];
    const last = this.#pieces[pieceAt(this.#pieces, Math.max(start, end - 1))];
    const from = first === undefined ? 0 : first.isChanged ? first.start : first.start + (start - first.at);
    const to = last === undefined ? from : last.isChanged ? last.end : last.start + (end - last.at);
    const place = { start: from, end: Math.max(to, from + 1) };
    return this.#source === undefined ? place : this.#source.placeOf(place.start, place.end);
  }
}

/** All other readings of a text, computed when first asked for: several detectors share them. */
export class Readings {
  readonly #text: string;
  #all: readonly Reading[] | undefined;
  #signs: TextSigns | undefined;

  constructor(text: string) {
    this.#text = text;
  }

  /** Of the text as it stands. */
  get signs(): TextSigns {
    return (this.#signs ??= TextSigns.of(this.#text));
  }

  get all(): readonly Reading[] {
    return (this.#all ??= readingsOf(this.#text, undefined, 0, this.signs));
  }
}

/**
 * What is hidden, folded or escaped undone round by round, until nothing changes; then what is encoded in the text, and in
 * what the rounds gave; and the same of that. So many at most that a text made for it costs a dozen times its like.
 */
function readingsOf(text: string, source: Reading | undefined, depth: number, signs?: TextSigns): Reading[] {
  if (depth >= depthMax) return [];
  const plain: Reading[] = [];
  for (let before = source, round = 0; round < roundsMax; round += 1) {
    const reading = plainer(before?.text ?? text, before, before === source ? signs : undefined);
    if (reading === undefined) break;
    plain.push(reading);
    before = reading;
  }
  const last = plain.at(-1);
  const inside = [decoded(text, source), last && decoded(last.text, last)].filter((one) => one !== undefined);
  return [...plain, ...inside, ...inside.flatMap((reading) => readingsOf(reading.text, reading, depth + 1))];
}

const written =
  // oxlint-disable-next-line no-control-regex
  /(?:\\u[0-9a-fA-F]{4})+|\\u\{[0-9a-fA-F]{1,6}\}|(?:\\x[0-9a-fA-F]{2})+|(?:\\[0-3][0-7]{2}){4,}|(?:%[0-9a-fA-F]{2})+|(?:=[0-9A-F]{2}){4,}|&#\d{1,12};?|&#[xX][0-9a-fA-F]{1,10};?|&(?:lt|gt|quot|amp|apos|nbsp|colon|equals|lowbar|hyphen|period|commat|sol|num);|\b(?:0x)?[0-9a-fA-F]{2,3}(?:(?:\s{1,2}|[:,;-]\s?)(?:0x)?[0-9a-fA-F]{2,3}){7,}\b|[^\u0000-\u007f]+/g;
/** Codes of characters, one after the other: pairs of hexadecimal digits, or decimal numbers. */
const codeList = /\b(?:0x)?[0-9a-fA-F]{2,3}(?:(?:\s{1,2}|[:,;-]\s?)(?:0x)?[0-9a-fA-F]{2,3}){7,}\b/;
const decimal = /^\d+$/;
const codeInList = /(?:0x)?([0-9a-fA-F]{2,3})/g;
const quotedPrintable = /=[0-9A-F]{2}=[0-9A-F]{2}=/;
// oxlint-disable-next-line no-control-regex
const notAscii = /[^\u0000-\u007f]/;
const entities = new Map(
  Object.entries({
    lt: '<',
    gt: '>',
    quot: '"',
    amp: '&',
    apos: "'",
    nbsp: ' ',
    colon: ':',
    equals: '=',
    lowbar: '_',
    hyphen: '-',
    period: '.',
    commat: '@',
    sol: '/',
    num: '#',
  }),
);

function isAsWritten(text: string, signs?: TextSigns): boolean {
  if (text.includes('%') || text.includes('&') || text.includes('\\')) return false;
  if (!(signs?.isAscii ?? isAscii(text)) || mayHideText(text, signs)) return false;
  if (text.includes('=') && quotedPrintable.test(text)) return false;
  // Codes of what can be printed have a digit each.
  return signs?.hasDigit === false || !codeList.test(text);
}

/**
 * Without what is hidden, in compatibility form (full-width and mathematical letters, ligatures), and with escapes of JSON
 * and JavaScript, percent-encoding, quoted-printable, character references and lists of character codes undone, wherever
 * they stand.
 */
function plainer(text: string, source: Reading | undefined, signs?: TextSigns): Reading | undefined {
  if (isAsWritten(text, signs)) return undefined;
  const replacements: Replacement[] = [];
  const hidden = mayHideText(text) ? findHiddenText(text) : [];
  let from = 0;
  for (const { start, end } of [...hidden, { start: text.length, end: text.length }]) {
    const part = from === 0 && start === text.length ? text : text.slice(from, start);
    for (const match of part.matchAll(written)) {
      const [run] = match;
      const plain = notAscii.test(run) ? run.normalize('NFKC') : unescape(run);
      if (plain === undefined || plain === run || plain.length > run.length * growthMax) continue;
      replacements.push({ start: from + match.index, end: from + match.index + run.length, text: plain });
    }
    if (end > start) replacements.push({ start, end, text: '' });
    from = end;
  }
  return around(text, replacements, source);
}

function unescape(run: string): string | undefined {
  switch (run[0]) {
    case '%':
      return utf8(Buffer.from(run.replaceAll('%', ''), 'hex'));
    case '=':
      return utf8(Buffer.from(run.replaceAll('=', ''), 'hex'));
    case '&': {
      const name = run.endsWith(';') ? run.slice(1, -1) : run.slice(1);
      return entities.get(name) ?? pointOf(name[1] === 'x' || name[1] === 'X', name.slice(1));
    }
    case '\\':
      break;
    default:
      return listedCodes(run);
  }
  if (run.startsWith('\\u{')) return pointOf(true, `x${run.slice(3, -1)}`);
  if (run.startsWith('\\x')) return utf8(Buffer.from(run.replaceAll('\\x', ''), 'hex'));
  if (!run.startsWith('\\u')) {
    return run.replace(/\\([0-3][0-7]{2})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  }
  return run.replace(/\\u([0-9a-fA-F]{4})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** Undefined where the codes are not those of a text; both texts where they may be hexadecimal and decimal. */
function listedCodes(run: string): string | undefined {
  const codes = Array.from(run.matchAll(codeInList), ([, code = '']) => code);
  const texts = [16, 10].flatMap((base) => {
    if (codes.some((code) => (base === 10 ? !decimal.test(code) : code.length !== 2))) return [];
    const text = codes.map((code) => String.fromCharCode(Number.parseInt(code, base))).join('');
    return printableAscii.test(text) ? [text] : [];
  });
  return texts.length === 0 ? undefined : texts.join('\n');
}

function pointOf(isHex: boolean, digits: string): string | undefined {
  const point = isHex ? Number.parseInt(digits.slice(1), 16) : Number(digits);
  return point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff) ? String.fromCodePoint(point) : undefined;
}

function utf8(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  return text.includes('\ufffd') ? bytes.toString('latin1') : text;
}

/** The neighbourhoods of what is replaced, with it replaced; undefined where nothing is. */
function around(text: string, replacements: readonly Replacement[], source: Reading | undefined): Reading | undefined {
  if (replacements.length === 0) return undefined;
  const pieces: Piece[] = [];
  const parts: string[] = [];
  let at = 0;
  const add = (part: string, start: number, end: number, isChanged: boolean): void => {
    pieces.push({ at, length: part.length, start, end, isChanged });
    parts.push(part);
    at += part.length;
  };
  let from = 0;
  for (const [index, { start, end, text: replaced }] of replacements.entries()) {
    if (start - from > 2 * reach) {
      if (index > 0) add(text.slice(from, from + reach), from, from + reach, false);
      from = start - reach;
      // Two neighbourhoods have nothing to do with each other.
      if (index > 0) add('\n\n', from, from, false);
    }
    if (start > from) add(text.slice(from, start), from, start, false);
    add(replaced, start, end, true);
    from = end;
  }
  const last = Math.min(text.length, from + reach);
  if (last > from) add(text.slice(from, last), from, last, false);
  return new Reading(parts.join(''), false, pieces, source);
}

/** Base64, URL-safe base64 and hexadecimal: which of them, its alphabet tells. */
const encodingCodes = codesOf('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-');
const encodedLengthMin = 16;
const equalsSign = 0x3d;
const hexDigits = /^(?:0x)?(?:[0-9a-fA-F]{2})+$/;
const printableAscii = /^[\t\n\r -~]*$/;
const printable = /^[\p{L}\p{M}\p{N}\p{P}\p{S}\s]*$/u;
const wordCharacters = /[\p{L}\s]/gu;
const decodedLengthMin = 8;

function codesOf(characters: string): Uint8Array {
  const codes = new Uint8Array(128);
  for (const character of characters) codes[character.charCodeAt(0)] = 1;
  return codes;
}

/**
 * The places of `/[A-Za-z0-9+/_-]{16,}={0,2}/g`. A run that long has a character at one of any sixteen places in a row, so
 * that most of a text is not looked at; the expression would try each word from each of its letters.
 */
export function encodedRuns(text: string): Place[] {
  const runs: Place[] = [];
  const isOne = (at: number): boolean => encodingCodes[text.charCodeAt(at)] === 1;
  for (let from = 0, at = encodedLengthMin - 1; at < text.length; at += encodedLengthMin) {
    if (!isOne(at)) continue;
    let start = at;
    while (start > from && isOne(start - 1)) start--;
    let end = at + 1;
    while (end < text.length && isOne(end)) end++;
    if (end - start >= encodedLengthMin) {
      for (let more = 0; more < 2 && text.charCodeAt(end) === equalsSign; more++) end++;
      runs.push({ start, end });
    }
    from = end;
    at = end - 1;
  }
  return runs;
}

/** Of what one run can be continued by, in characters: a longer one is read in parts. */
const continuedLengthMax = 65_536;
const continuation = /([ \t\r\n]{1,4})([A-Za-z0-9+/_-]{1,256}={0,2})/y;
/** What goes on after less than this ends here. */
const continuedMin = 4;

/** Where a run may end that is broken over lines, or set in groups, the furthest first; all by the same white space. */
function continuedEnds(text: string, { start, end }: Place): number[] {
  const ends: number[] = [];
  let separator: string | undefined;
  continuation.lastIndex = end;
  for (let match = continuation.exec(text); match !== null; match = continuation.exec(text)) {
    const [, space = '', part = ''] = match;
    separator ??= space;
    if (space !== separator) break;
    ends.unshift(continuation.lastIndex);
    if (part.length < continuedMin || part.endsWith('=') || continuation.lastIndex - start > continuedLengthMax) break;
  }
  // Words that follow are none of it, but what was one more part is not told from one.
  return ends.slice(0, 2);
}

/** Shorter runs do not begin somewhere within others by chance. */
const shiftedLengthMin = 24;
const shiftedSample = 20;

function plainOf(run: string): string | undefined {
  if (hexDigits.test(run)) return textOf(Buffer.from(run.replace(/^0x/, ''), 'hex'));
  const plain = textOf(Buffer.from(run, 'base64'));
  if (plain !== undefined || run.length < shiftedLengthMin) return plain;
  // Glued to what is none of it, every fourth place may be where it begins.
  const shift = [1, 2, 3].find((by) => textOf(Buffer.from(run.slice(by, by + shiftedSample), 'base64')) !== undefined);
  return shift === undefined ? undefined : textOf(Buffer.from(run.slice(shift), 'base64'));
}

/**
 * What stands in base64 or hexadecimal in a text, one after the other; a run broken over lines is one. What goes on after
 * white space is tried once for all its runs, so that a text made for it costs no more.
 */
function decoded(text: string, source: Reading | undefined): Reading | undefined {
  const pieces: Piece[] = [];
  const parts: string[] = [];
  let at = 0;
  let before = -1;
  let tried = 0;
  for (const place of encodedRuns(text)) {
    const { start } = place;
    if (start < before) continue;
    let { end } = place;
    let plain = plainOf(text.slice(start, end));
    if (start >= tried) {
      const ends = continuedEnds(text, place);
      [tried = end] = ends;
      for (const further of ends) {
        const longer = plainOf(text.slice(start, further).replace(/\s+/g, ''));
        // A letter more that says nothing more is no part of it.
        if (longer === undefined || longer.length <= (plain?.length ?? 0)) continue;
        plain = longer;
        end = further;
      }
    }
    if (plain === undefined) continue;
    if (before >= 0 && !(start - before <= 2 && /^\s+$/.test(text.slice(before, start)))) {
      pieces.push({ at, length: 1, start: before, end: start, isChanged: false });
      parts.push('\n');
      at += 1;
    }
    pieces.push({ at, length: plain.length, start, end, isChanged: true });
    parts.push(plain);
    at += plain.length;
    before = end;
  }
  return parts.length === 0 ? undefined : new Reading(parts.join(''), true, pieces, source);
}

/** The bytes as text, or undefined where they are none: anything in base64 decodes to something. */
function textOf(bytes: Buffer): string | undefined {
  const isWide = bytes.length > 2 * decodedLengthMin && bytes[1] === 0 && bytes[3] === 0 && bytes[5] === 0;
  const text = bytes.toString(isWide ? 'utf16le' : 'utf8');
  if (text.length < decodedLengthMin) return undefined;
  if (printableAscii.test(text)) return text;
  if (text.includes('\ufffd') || !printable.test(text)) return undefined;
  const letters = text.match(wordCharacters)?.length ?? 0;
  return letters >= text.length * 0.6 ? text : undefined;
}
