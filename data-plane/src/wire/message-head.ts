/**
 * Heads of HTTP/1.1 messages (RFC 9112), read more strictly than it asks: what two readers could take for two things is
 * refused. So no bare CR or LF, no folded line, no space before a colon, no control character, one length at most.
 */

/** The bytes are no HTTP/1.1 message that has one meaning. Where the next one begins is unknown then. */
export class MalformedMessage extends Error {}

/** What follows a head: so many bytes, or one of these. */
export type Framing = number;
export const chunkedFraming: Framing = -1;
export const untilCloseFraming: Framing = -2;

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  /** By lower-case name; the first value where a header came more than once. */
  readonly headers: ReadonlyMap<string, string>;
  /** Lower-case names of headers that came more than once. */
  readonly repeated: readonly string[];
  readonly framing: Framing;
  /** HTTP/1.0: no chunked answers, and the connection ends with the answer. */
  readonly isOld: boolean;
  /** Whether the client lets the connection serve another request. */
  readonly keepsAlive: boolean;
}

export interface ResponseHead {
  readonly status: number;
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly framing: Framing;
  readonly keepsAlive: boolean;
}

const headEnd = Buffer.from('\r\n\r\n');

/** Where the head that begins at `from` ends: the place after its empty line; -1 while it is not there. */
export function endOfHead(bytes: Buffer, from: number): number {
  const at = bytes.indexOf(headEnd, from);
  return at < 0 ? -1 : at + headEnd.length;
}

const cr = 0x0d;
const lf = 0x0a;
const colon = 0x3a;
const space = 0x20;
const tab = 0x09;
/** Of each code below 256: 1 where a name may have it, 2 where that is an upper-case letter. */
const nameCodes = new Uint8Array(256);
for (const character of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") nameCodes[character.charCodeAt(0)] = 1;
for (let code = 0x41; code <= 0x5a; code++) nameCodes[code] = 2;
/** Of each code: 1 where a value may have it (RFC 9110 §5.5). */
const valueCodes = new Uint8Array(256).fill(1, space);
valueCodes[0x7f] = 0;
valueCodes[tab] = 1;

/** Takes the header lines of a head as they are read. */
interface FieldTaker {
  take(name: string, value: string): void;
}

/** Reads the field lines from `at` to the empty line that ends the head. */
function readFields(text: string, at: number, taker: FieldTaker): void {
  let next = at;
  while (text.charCodeAt(next) !== cr) next = readField(text, next, taker);
  if (next + 2 !== text.length) throw new MalformedMessage('a line break within the head');
}

function readField(text: string, start: number, taker: FieldTaker): number {
  let at = start;
  let hasUpperCase = false;
  for (let kind = 0; ; at++) {
    kind = nameCodes[text.charCodeAt(at)] ?? 0;
    if (kind === 0) break;
    hasUpperCase ||= kind === 2;
  }
  if (at === start || text.charCodeAt(at) !== colon) throw new MalformedMessage('a header without a name');
  const name = text.slice(start, at);
  let from = at + 1;
  while (text.charCodeAt(from) === space || text.charCodeAt(from) === tab) from++;
  let to = from;
  while (valueCodes[text.charCodeAt(to)] === 1) to++;
  if (text.charCodeAt(to) !== cr || text.charCodeAt(to + 1) !== lf)
    throw new MalformedMessage('a header that breaks off');
  const next = to + 2;
  while (to > from && (text.charCodeAt(to - 1) === space || text.charCodeAt(to - 1) === tab)) to--;
  taker.take(hasUpperCase ? name.toLowerCase() : name, text.slice(from, to));
  return next;
}

/** The methods of RFC 9110 and RFC 5789, and no others. */
const requestLine = /^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE) ([\x21-\x7e]+) HTTP\/1\.([01])$/;
/** A path, an absolute URL or an asterisk; of CONNECT, where to (RFC 9112 §3.2). */
const targetForm = /^(?:\/|https?:\/\/[A-Za-z0-9.:[\]-]+(?:\/|$)|\*$)/;
const authorityForm = /^[A-Za-z0-9.:[\]-]+:\d{1,5}$/;
const commaLists = 'x-forwarded-for';

/** The header lines of a request. */
class RequestFields implements FieldTaker {
  readonly headers = new Map<string, string>();
  readonly repeated: string[] = [];
  closes = false;

  take(name: string, value: string): void {
    const first = this.headers.get(name);
    if (first === undefined) this.headers.set(name, value);
    else {
      // A proxy may add its hop in a line of its own behind the one that a stranger sent; both are one list.
      if (name === commaLists) this.headers.set(name, `${first},${value}`);
      this.repeated.push(name);
    }
    if (name === 'connection') this.closes ||= names(value, 'close');
  }
}

/**
 * @param text the head whole, its empty line included; a character for each byte
 * @throws MalformedMessage
 */
export function parseRequestHead(text: string): RequestHead {
  const lineEnd = text.indexOf('\r\n');
  const [, method, target, minor] = requestLine.exec(text.slice(0, lineEnd)) ?? [];
  if (method === undefined || target === undefined) throw new MalformedMessage('no request line');
  if (!(method === 'CONNECT' ? authorityForm : targetForm).test(target)) throw new MalformedMessage('no target');
  const fields = new RequestFields();
  readFields(text, lineEnd + 2, fields);
  const { headers, repeated, closes } = fields;
  const isOld = minor === '0';
  return {
    method,
    target,
    headers,
    repeated,
    framing: requestFraming(headers, repeated, isOld),
    isOld,
    keepsAlive: !isOld && method !== 'CONNECT' && !closes,
  };
}

/** RFC 9112 §6.3, and §6.1 for a request that has both lengths: it is refused. */
function requestFraming(headers: ReadonlyMap<string, string>, repeated: readonly string[], isOld: boolean): Framing {
  const coding = headers.get('transfer-encoding');
  const length = headers.get('content-length');
  if (repeated.length > 0 && (repeated.includes('transfer-encoding') || repeated.includes('content-length'))) {
    throw new MalformedMessage('more than one length');
  }
  if (coding === undefined) return length === undefined ? 0 : lengthOf(length);
  if (length !== undefined || isOld) throw new MalformedMessage('a length and a transfer encoding');
  if (coding.toLowerCase() !== 'chunked') throw new MalformedMessage('a transfer encoding other than chunked');
  return chunkedFraming;
}

/**
 * Reads the heads of one connection. Most say what the one before said, byte for byte (a client that calls the same tool,
 * an upstream that answers in the same second): those are not read again.
 */
export class HeadReader<Head extends RequestHead | ResponseHead> {
  readonly #parse: (text: string) => Head;
  #text = '';
  #head: Head | undefined;

  /** @param parse one of the two below */
  constructor(parse: (text: string) => Head) {
    this.#parse = parse;
  }

  /** Reads the head that takes these bytes whole; gives the one before where it is the same. @throws MalformedMessage */
  read(bytes: Buffer, start: number, end: number): Head {
    const text = bytes.toString('latin1', start, end);
    if (this.#head === undefined || text !== this.#text) {
      this.#head = this.#parse(text);
      this.#text = text;
    }
    return this.#head;
  }
}

function lengthOf(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new MalformedMessage('a length that is no number');
  return Number(value);
}

/** Whether a comma-separated header has a word in it, whatever its case. */
function names(header: string, word: string): boolean {
  return header
    .toLowerCase()
    .split(',')
    .some((part) => part.trim() === word);
}

const statusLine = /^HTTP\/1\.([01]) (\d{3})(?: [\t\x20-\x7e\x80-\xff]*)?$/;

/** The header lines of a response. */
class ResponseFields implements FieldTaker {
  readonly headers = Object.create(null) as Record<string, string | string[] | undefined>;

  take(name: string, value: string): void {
    const before = this.headers[name];
    if (before === undefined) this.headers[name] = value;
    else if (Array.isArray(before)) before.push(value);
    else this.headers[name] = [before, value];
  }
}

/**
 * @param text the head whole, its empty line included; a character for each byte
 * @throws MalformedMessage
 */
export function parseResponseHead(text: string): ResponseHead {
  const lineEnd = text.indexOf('\r\n');
  const [, minor, code] = statusLine.exec(text.slice(0, lineEnd)) ?? [];
  if (code === undefined) throw new MalformedMessage('no status line');
  const fields = new ResponseFields();
  readFields(text, lineEnd + 2, fields);
  const { headers } = fields;
  const status = Number(code);
  const { connection } = headers;
  const framing = responseFraming(status, headers);
  const isClosing = connection !== undefined && names(String(connection), 'close');
  return { status, headers, framing, keepsAlive: minor === '1' && framing !== untilCloseFraming && !isClosing };
}

function responseFraming(status: number, headers: ResponseHead['headers']): Framing {
  const coding = headers['transfer-encoding'];
  const length = headers['content-length'];
  if (Array.isArray(coding) || Array.isArray(length)) throw new MalformedMessage('more than one length');
  if (coding !== undefined && length !== undefined) throw new MalformedMessage('a length and a transfer encoding');
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') {
    throw new MalformedMessage('a transfer encoding other than chunked');
  }
  const declared = length === undefined ? undefined : lengthOf(length);
  if (status < 200 || status === 204 || status === 304) return 0;
  if (coding !== undefined) return chunkedFraming;
  return declared ?? untilCloseFraming;
}

const valueCharacters = /^[\t\x20-\x7e\x80-\xff]*$/;
const nameCharacters = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]*$/;

/**
 * Field lines of a head to be written, from name, value, name, value, …
 * @throws TypeError where one could be read as more than one
 */
export function fieldLines(headers: readonly string[]): string {
  let lines = '';
  let names = '';
  let values = '';
  let hasNames = true;
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const name = headers[at] ?? '';
    const value = headers[at + 1] ?? '';
    hasNames &&= name.length > 0;
    names += name;
    values += value;
    lines += `${name}: ${value}\r\n`;
  }
  // Put together, since what holds for each character of all holds for each of one.
  if (hasNames && nameCharacters.test(names) && valueCharacters.test(values)) return lines;
  throw new TypeError(`one of the headers cannot be written: ${headers.filter((_, at) => at % 2 === 0).join(', ')}`);
}
