import { AppError } from '@sallyport/schema';
import { GatheredBytes } from './gathered-bytes.ts';

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
const colon = 0x3a;
const space = 0x20;
const dataName = Buffer.from('data');
const idName = Buffer.from('id');
const eventName = Buffer.from('event');
const retryName = Buffer.from('retry');
const digits = /^\d{1,15}$/;
const lineFeedBytes = Buffer.from('\n');

/** One event of a stream, or a block of comments alone. */
export interface SseEvent {
  /** As received, the blank line that ends it included. */
  readonly raw: Buffer;
  /** The joined `data` lines, or null where the event has none; may share memory with `raw`. UTF-8, unless it is broken. */
  readonly data: Buffer | null;
  /** The `id` field; empty text is an id too. */
  readonly id: string | null;
  /** The `event` field: the kind of the event; null where it has none, which stands for `message`. */
  readonly event: string | null;
  /** The `retry` field, in milliseconds: what to wait before the stream is taken up again. */
  readonly retryMs: number | null;
}

/**
 * Cuts a byte stream into events, whatever the chunks (WHATWG HTML §9.2): lines end with LF, CR or CR LF, data may
 * span lines, a byte order mark may stand first. The concatenation of all `raw` is the stream itself, but for an
 * unfinished event at its end, which by the standard is none.
 */
export class SseParser {
  readonly #eventBytesMax: number;
  /** Of an event that has not ended: gathered, so that one in many small chunks costs no more than its length. */
  #pending = new GatheredBytes();
  /** Where the line under way starts, and how far the search for its end got; both within `#pending`. */
  #lineStart = 0;
  #searched = 0;
  #atStart = true;
  #afterCarriageReturn = false;

  /** @param eventBytesMax most bytes one event may have */
  constructor(eventBytesMax: number) {
    this.#eventBytesMax = eventBytesMax;
  }

  /** @throws AppError UPSTREAM_RESPONSE_TOO_LARGE where an event exceeds its limit */
  push(chunk: Buffer): SseEvent[] {
    const events: SseEvent[] = [];
    const isFirst = this.#pending.length === 0;
    if (!isFirst) this.#pending.push(chunk);
    const bytes = isFirst ? chunk : this.#pending.whole();
    let at = this.#searched;
    let eventStart = 0;
    while (at < bytes.length) {
      const byte = bytes[at];
      if (this.#afterCarriageReturn) {
        this.#afterCarriageReturn = false;
        if (byte === lineFeed && at === this.#lineStart) {
          // The second half of CR LF: belongs to the line before, so no new line is counted.
          this.#lineStart = at + 1;
          at++;
          continue;
        }
      }
      if (byte !== lineFeed && byte !== carriageReturn) {
        at++;
        continue;
      }
      const blank = at === this.#lineStart;
      this.#afterCarriageReturn = byte === carriageReturn;
      at++;
      this.#lineStart = at;
      if (!blank) continue;
      if (this.#afterCarriageReturn && bytes[at] === lineFeed) {
        at++;
        this.#lineStart = at;
        this.#afterCarriageReturn = false;
      }
      events.push(this.#event(bytes.subarray(eventStart, at)));
      eventStart = at;
    }
    if (bytes.length - eventStart > this.#eventBytesMax) throw new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
    this.#lineStart -= eventStart;
    this.#searched = at - eventStart;
    this.#keep(bytes, eventStart, isFirst);
    return events;
  }

  /** @param isFirst nothing of the bytes is gathered yet; else all are, and those before `from` belong to events now */
  #keep(bytes: Buffer, from: number, isFirst: boolean): void {
    if (isFirst ? from === bytes.length : from === 0) return;
    this.#pending = new GatheredBytes();
    // A copy: the rest must not keep a whole chunk of the socket alive.
    if (from < bytes.length) this.#pending.push(Buffer.from(bytes.subarray(from)));
  }

  #event(raw: Buffer): SseEvent {
    if (raw.length > this.#eventBytesMax) throw new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
    let at = 0;
    if (this.#atStart) {
      this.#atStart = false;
      if (raw[0] === 0xef && raw[1] === 0xbb && raw[2] === 0xbf) at = 3;
    }
    const data: Buffer[] = [];
    let id: string | null = null;
    let event: string | null = null;
    let retryMs: number | null = null;
    while (at < raw.length) {
      let end = at;
      let nameEnd = -1;
      for (; end < raw.length; end++) {
        const byte = raw[end];
        if (byte === lineFeed || byte === carriageReturn) break;
        if (byte === colon && nameEnd < 0) nameEnd = end;
      }
      if (nameEnd < 0) nameEnd = end;
      const valueAt = Math.min(nameEnd + (raw[nameEnd + 1] === space ? 2 : 1), end);
      if (isName(raw, at, nameEnd, dataName)) data.push(raw.subarray(valueAt, end));
      else if (isName(raw, at, nameEnd, eventName)) event = raw.toString('utf8', valueAt, end);
      else if (isName(raw, at, nameEnd, idName)) {
        const value = raw.toString('utf8', valueAt, end);
        if (!value.includes('\0')) id = value;
      } else if (isName(raw, at, nameEnd, retryName)) {
        const value = raw.toString('utf8', valueAt, end);
        if (digits.test(value)) retryMs = Number(value);
      }
      at = raw[end] === carriageReturn && raw[end + 1] === lineFeed ? end + 2 : end + 1;
    }
    return { raw, data: joinedLines(data), id, event, retryMs };
  }
}

function joinedLines(lines: readonly Buffer[]): Buffer | null {
  const [only] = lines;
  if (only === undefined || lines.length === 1) return only ?? null;
  return Buffer.concat(lines.flatMap((line, index) => (index === 0 ? [line] : [lineFeedBytes, line])));
}

function isName(raw: Buffer, start: number, end: number, name: Buffer): boolean {
  if (end - start !== name.length) return false;
  for (let at = 0; at < name.length; at++) if (raw[start + at] !== name[at]) return false;
  return true;
}

/** The event with other data; its other fields (`id`, `event`, `retry`, comments) stay. */
export function withData(event: SseEvent, data: string): Buffer {
  const kept = linesOf(event).filter((line) => line !== 'data' && !line.startsWith('data:'));
  return Buffer.from([...kept, ...data.split('\n').map((line) => `data: ${line}`), '', ''].join('\n'));
}

/** The event with another id; its other fields stay. */
export function withId(event: SseEvent, id: string): SseEvent {
  const kept = linesOf(event).filter((line) => line !== 'id' && !line.startsWith('id:'));
  return { ...event, raw: Buffer.from([...kept, `id: ${id}`, '', ''].join('\n')), id };
}

function linesOf(event: SseEvent): string[] {
  return event.raw
    .toString('utf8')
    .replace(/^\uFEFF/, '')
    .split(/\r\n|\r|\n/)
    .filter((line) => line !== '');
}

/** The event that tells an HTTP+SSE client where to post (2024-11-05 basic/transports). */
export function endpointEvent(uri: string): Buffer {
  return Buffer.from(`event: endpoint\ndata: ${uri}\n\n`);
}

/** An event of our own that carries one JSON-RPC message. */
export function messageEvent(json: string): Buffer {
  return Buffer.from(`event: message\ndata: ${json}\n\n`);
}

/** A comment that keeps intermediaries from closing a quiet stream. */
export const keepAliveComment = Buffer.from(':\n\n');
