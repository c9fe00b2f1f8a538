import { isUtf8 } from 'node:buffer';
import { behindEscape, JsonStrings } from './json-strings.ts';

/** Deepest nesting accepted, in levels. */
export const jsonDepthMax = 128;
/** Most values (objects, arrays, strings, numbers, literals) accepted in one document. */
export const jsonNodesMax = 200_000;

/** Byte offsets of a value: `start` inclusive, `end` exclusive. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

export type JsonProblem = 'notUtf8' | 'syntax' | 'duplicateKey' | 'tooDeep' | 'tooManyNodes';

export type ScanResult =
  | {
      readonly ok: true;
      readonly root: Range /** Members of the root object; empty for any other root. */;
      readonly members: ReadonlyMap<string, Range>;
    }
  | { readonly ok: false; readonly problem: JsonProblem };

const quote = 0x22;
const backslash = 0x5c;
const openBrace = 0x7b;
const closeBrace = 0x7d;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const comma = 0x2c;
const colon = 0x3a;
const minus = 0x2d;
const plus = 0x2b;
const dot = 0x2e;
const zero = 0x30;
const nine = 0x39;

/** Carries the reason out of the recursion; never leaves this module. */
class Refused extends Error {
  readonly problem: JsonProblem;
  constructor(problem: JsonProblem) {
    super(problem);
    this.problem = problem;
  }
}

/**
 * Checks bytes in one pass against RFC 8259, stricter where two parsers could read two things: valid UTF-8, no byte
 * order mark, no key twice in one object (compared after unescaping), bounded depth and size. What passes here means
 * the same to every conforming parser, and may then be forwarded as it is.
 * @param text the bytes as text, where the caller has it: keys are then cut out of it
 */
export function scanJson(bytes: Buffer, text?: string): ScanResult {
  if (!isUtf8(bytes)) return { ok: false, problem: 'notUtf8' };
  try {
    // Of the same length it is ASCII throughout, so that offsets in bytes are offsets in the text.
    return new Scanner(bytes, text?.length === bytes.length ? text : undefined).scan();
  } catch (error) {
    if (error instanceof Refused) return { ok: false, problem: error.problem };
    throw error;
  }
}

/** Strings are looked through byte by byte up to here. */
const shortStringBytesMax = 64;
/** Keys of an object that are looked through one by one; beyond that, they are found by their hash. */
const listedKeysMax = 16;

class Scanner {
  readonly #bytes: Buffer;
  /** The same as text, only where all is ASCII. */
  readonly #ascii: string | undefined;
  /** Of the objects that are open, from the outermost to the innermost. */
  readonly #keys: string[] = [];
  readonly #members = new Map<string, Range>();
  #strings: JsonStrings | undefined;
  #at = 0;
  #nodes = 0;

  constructor(bytes: Buffer, ascii: string | undefined) {
    this.#bytes = bytes;
    this.#ascii = ascii;
  }

  scan(): ScanResult {
    this.#at = skipSpace(this.#bytes, 0);
    const start = this.#at;
    this.#value(0);
    const end = this.#at;
    if (skipSpace(this.#bytes, end) !== this.#bytes.length) throw new Refused('syntax');
    return { ok: true, root: { start, end }, members: this.#members };
  }

  #value(depth: number): void {
    if (++this.#nodes > jsonNodesMax) throw new Refused('tooManyNodes');
    const byte = this.#bytes[this.#at];
    switch (byte) {
      case openBrace:
        return this.#object(depth + 1);
      case openBracket:
        return this.#array(depth + 1);
      case quote:
        this.#string();
        return;
      case 0x74:
        return this.#literal('true');
      case 0x66:
        return this.#literal('false');
      case 0x6e:
        return this.#literal('null');
      default:
        return this.#number();
    }
  }

  #object(depth: number): void {
    if (depth > jsonDepthMax) throw new Refused('tooDeep');
    const bytes = this.#bytes;
    this.#at = skipSpace(bytes, this.#at + 1);
    if (bytes[this.#at] === closeBrace) {
      this.#at++;
      return;
    }
    const keysFrom = this.#keys.length;
    let many: Set<string> | undefined;
    for (;;) {
      if (bytes[this.#at] !== quote) throw new Refused('syntax');
      const key = this.#key();
      this.#at = skipSpace(bytes, this.#at);
      if (bytes[this.#at] !== colon) throw new Refused('syntax');
      this.#at = skipSpace(bytes, this.#at + 1);
      const start = this.#at;
      if (many !== undefined) {
        if (many.has(key)) throw new Refused('duplicateKey');
        many.add(key);
      } else {
        if (this.#keys.indexOf(key, keysFrom) >= 0) throw new Refused('duplicateKey');
        this.#keys.push(key);
        if (this.#keys.length - keysFrom > listedKeysMax) many = new Set(this.#keys.slice(keysFrom));
      }
      this.#value(depth);
      if (depth === 1) this.#members.set(key, { start, end: this.#at });
      this.#at = skipSpace(bytes, this.#at);
      const next = bytes[this.#at];
      if (next === closeBrace) break;
      if (next !== comma) throw new Refused('syntax');
      this.#at = skipSpace(bytes, this.#at + 1);
    }
    this.#keys.length = keysFrom;
    this.#at++;
  }

  #array(depth: number): void {
    if (depth > jsonDepthMax) throw new Refused('tooDeep');
    const bytes = this.#bytes;
    this.#at = skipSpace(bytes, this.#at + 1);
    if (bytes[this.#at] === closeBracket) {
      this.#at++;
      return;
    }
    for (;;) {
      this.#value(depth);
      this.#at = skipSpace(bytes, this.#at);
      const next = bytes[this.#at];
      if (next === closeBracket) break;
      if (next !== comma) throw new Refused('syntax');
      this.#at = skipSpace(bytes, this.#at + 1);
    }
    this.#at++;
  }

  #key(): string {
    const start = this.#at;
    const escaped = this.#string();
    if (!escaped && this.#ascii !== undefined) return this.#ascii.slice(start + 1, this.#at - 1);
    return keyText(this.#bytes, start, this.#at, escaped);
  }

  /** Moves behind the closing quote; true where the string may have an escape. */
  #string(): boolean {
    const bytes = this.#bytes;
    let at = this.#at + 1;
    const near = Math.min(bytes.length, at + shortStringBytesMax);
    let escaped = false;
    while (at < near) {
      const byte = bytes[at] ?? 0;
      if (byte === quote) {
        this.#at = at + 1;
        return escaped;
      }
      if (byte < 0x20) throw new Refused('syntax');
      if (byte === backslash) {
        escaped = true;
        at = behindEscape(bytes, at + 1);
        if (at < 0) throw new Refused('syntax');
      } else {
        at++;
      }
    }
    const end = (this.#strings ??= new JsonStrings(bytes)).end(at);
    if (end < 0) throw new Refused('syntax');
    this.#at = end + 1;
    return true;
  }

  #literal(text: 'true' | 'false' | 'null'): void {
    const end = this.#at + text.length;
    if (this.#bytes.toString('latin1', this.#at, end) !== text) throw new Refused('syntax');
    this.#at = end;
  }

  #number(): void {
    const bytes = this.#bytes;
    let at = this.#at;
    if (bytes[at] === minus) at++;
    if (bytes[at] === zero) at++;
    else at = digits(bytes, at);
    if (bytes[at] === dot) at = digits(bytes, at + 1);
    if (bytes[at] === 0x65 || bytes[at] === 0x45) {
      at++;
      if (bytes[at] === plus || bytes[at] === minus) at++;
      at = digits(bytes, at);
    }
    this.#at = at;
  }
}

/** Behind one digit or more. */
function digits(bytes: Buffer, from: number): number {
  let at = from;
  for (let byte = bytes[at] ?? 0; byte >= zero && byte <= nine; byte = bytes[at] ?? 0) at++;
  if (at === from) throw new Refused('syntax');
  return at;
}

function skipSpace(bytes: Buffer, from: number): number {
  let at = from;
  for (;;) {
    const byte = bytes[at];
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return at;
    at++;
  }
}

/** The key between the quotes at `start` and before `end`, unescaped, so that two spellings of one key compare equal. */
function keyText(bytes: Buffer, start: number, end: number, escaped: boolean): string {
  if (!escaped) return bytes.toString('utf8', start + 1, end - 1);
  const text: unknown = JSON.parse(bytes.toString('utf8', start, end));
  if (typeof text !== 'string') throw new Refused('syntax');
  return text;
}

/** Moves behind the string that starts at `at`. Only for bytes that passed `scanJson`. */
function skipString(bytes: Buffer, at: number): number {
  for (let next = at + 1; next < bytes.length; next++) {
    const byte = bytes[next];
    if (byte === quote) return next + 1;
    if (byte === backslash) next++;
  }
  return bytes.length;
}

function skipValue(bytes: Buffer, from: number): number {
  let at = from;
  let depth = 0;
  while (at < bytes.length) {
    const byte = bytes[at];
    if (byte === quote) {
      at = skipString(bytes, at);
    } else if (byte === openBrace || byte === openBracket) {
      depth++;
      at++;
      continue;
    } else if (byte === closeBrace || byte === closeBracket) {
      if (depth === 0) return at;
      depth--;
      at++;
    } else if (depth > 0) {
      at++;
      continue;
    } else {
      while (at < bytes.length && !isDelimiter(bytes[at])) at++;
    }
    if (depth === 0) return at;
  }
  return at;
}

function isDelimiter(byte: number | undefined): boolean {
  switch (byte) {
    case comma:
    case closeBrace:
    case closeBracket:
    case 0x20:
    case 0x0a:
    case 0x0d:
    case 0x09:
      return true;
    default:
      return false;
  }
}

export interface Member {
  readonly key: string;
  /** Of the key, its quotes included. */
  readonly keyStart: number;
  readonly value: Range;
}

/**
 * The members of the object at `range`; empty where the value is no object.
 * Only for bytes that passed `scanJson`: it skips, it does not check.
 */
export function objectMembers(bytes: Buffer, range: Range): Member[] {
  const members: Member[] = [];
  if (bytes[range.start] !== openBrace) return members;
  let at = skipSpace(bytes, range.start + 1);
  while (at < range.end && bytes[at] === quote) {
    const keyStart = at;
    const keyEnd = skipString(bytes, at);
    const key = keyText(bytes, keyStart, keyEnd, bytes.subarray(keyStart, keyEnd).includes(backslash));
    const start = skipSpace(bytes, skipSpace(bytes, keyEnd) + 1);
    const end = skipValue(bytes, start);
    members.push({ key, keyStart, value: { start, end } });
    at = skipSpace(bytes, end);
    if (bytes[at] !== comma) break;
    at = skipSpace(bytes, at + 1);
  }
  return members;
}

export function memberRange(bytes: Buffer, range: Range, key: string): Range | undefined {
  return objectMembers(bytes, range).find((member) => member.key === key)?.value;
}

/** The elements of the array at `range`, or undefined where the value is no array. */
export function arrayElements(bytes: Buffer, range: Range): Range[] | undefined {
  if (bytes[range.start] !== openBracket) return undefined;
  const elements: Range[] = [];
  let at = skipSpace(bytes, range.start + 1);
  while (at < range.end && bytes[at] !== closeBracket) {
    const end = skipValue(bytes, at);
    elements.push({ start: at, end });
    at = skipSpace(bytes, end);
    if (bytes[at] !== comma) break;
    at = skipSpace(bytes, at + 1);
  }
  return elements;
}

/** The value at `range`, parsed. */
export function parseRange(bytes: Buffer, range: Range): unknown {
  return JSON.parse(bytes.toString('utf8', range.start, range.end));
}

export interface Edit extends Range {
  readonly replacement: string | Buffer;
}

/** Removes the members that `isRemoved` names from the object at `range`, and the commas that held them. */
export function removeMembers(bytes: Buffer, range: Range, isRemoved: (key: string) => boolean): Edit[] {
  const members = objectMembers(bytes, range);
  const kept = members.filter((member) => !isRemoved(member.key));
  const [first] = members;
  const last = members[members.length - 1];
  if (first === undefined || last === undefined || kept.length === members.length) return [];
  const parts = kept.map((member) => bytes.subarray(member.keyStart, member.value.end));
  return [{ start: first.keyStart, end: last.value.end, replacement: joinWithCommas(parts) }];
}

/** Takes one member out of the object at `range`, and no other byte than its comma: edits within the others may go along. */
export function removeMember(bytes: Buffer, range: Range, key: string): Edit[] {
  const members = objectMembers(bytes, range);
  const at = members.findIndex((member) => member.key === key);
  const [before, member, after] = [members[at - 1], members[at], members[at + 1]];
  if (member === undefined) return [];
  if (after !== undefined) return [{ start: member.keyStart, end: after.keyStart, replacement: '' }];
  return [{ start: before === undefined ? member.keyStart : before.value.end, end: member.value.end, replacement: '' }];
}

/** Keeps the elements at `kept` of the array whose elements are `all`; each keeps its bytes. */
export function keepElements(bytes: Buffer, all: readonly Range[], kept: readonly Range[]): Edit[] {
  const [first] = all;
  const last = all[all.length - 1];
  if (first === undefined || last === undefined || kept.length === all.length) return [];
  const parts = kept.map((element) => bytes.subarray(element.start, element.end));
  return [{ start: first.start, end: last.end, replacement: joinWithCommas(parts) }];
}

/** Puts a member, `"key":value`, before those of the object at `range`. Only for bytes that passed `scanJson`. */
export function insertMember(bytes: Buffer, range: Range, member: string): Edit {
  const at = range.start + 1;
  const isEmpty = bytes[skipSpace(bytes, at)] === closeBrace;
  return { start: at, end: at, replacement: isEmpty ? member : `${member},` };
}

function joinWithCommas(parts: readonly Buffer[]): Buffer {
  return Buffer.concat(parts.flatMap((part, index) => (index === 0 ? [part] : [commaBytes, part])));
}
const commaBytes = Buffer.from(',');

/** The bytes with the edits applied; every byte outside them stays. Edits must not overlap. */
export function applyEdits(bytes: Buffer, edits: readonly Edit[]): Buffer {
  if (edits.length === 0) return bytes;
  const parts: Buffer[] = [];
  let from = 0;
  for (const edit of [...edits].sort((a, b) => a.start - b.start)) {
    const { replacement } = edit;
    parts.push(
      bytes.subarray(from, edit.start),
      typeof replacement === 'string' ? Buffer.from(replacement) : replacement,
    );
    from = edit.end;
  }
  parts.push(bytes.subarray(from));
  return Buffer.concat(parts);
}
