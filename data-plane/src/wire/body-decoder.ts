import { chunkedFraming, type Framing, MalformedMessage, untilCloseFraming } from './message-head.ts';

/** Of a chunk's size line with its extensions, and of all trailers together, in bytes. */
const sizeLineBytesMax = 256;
const trailerBytesMax = 8 * 1024;
/** 2^40 and more are no chunks that anybody sends. */
const sizeDigitsMax = 10;

const cr = 0x0d;
const lf = 0x0a;
const semicolon = 0x3b;

type Place = 'size' | 'extension' | 'sizeEnd' | 'data' | 'dataEnd' | 'dataEndLf' | 'trailer' | 'trailerEnd';

/** Takes the body of one message out of the bytes of a connection (RFC 9112 §6 and §7.1). Trailers are dropped. */
export class BodyDecoder {
  readonly #framing: Framing;
  #remaining: number;
  #place: Place = 'size';
  #digits = 0;
  #lineBytes = 0;
  #trailerBytes = 0;
  done: boolean;

  constructor(framing: Framing) {
    this.#framing = framing;
    this.#remaining = framing > 0 ? framing : 0;
    this.done = framing === 0;
  }

  /** Whether the body ends with the connection. */
  get endsWithConnection(): boolean {
    return this.#framing === untilCloseFraming;
  }

  /**
   * @param from where in `bytes` to begin
   * @param take is given the parts of the body, which share memory with `bytes`
   * @returns where what follows the body begins, or the length of `bytes`
   * @throws MalformedMessage
   */
  push(bytes: Buffer, from: number, take: (part: Buffer) => void): number {
    if (this.done) return from;
    if (this.#framing === untilCloseFraming) {
      take(from === 0 ? bytes : bytes.subarray(from));
      return bytes.length;
    }
    if (this.#framing === chunkedFraming) return this.#pushChunked(bytes, from, take);
    const at = this.#takeData(bytes, from, take);
    this.done = this.#remaining === 0;
    return at;
  }

  #takeData(bytes: Buffer, from: number, take: (part: Buffer) => void): number {
    const to = Math.min(bytes.length, from + this.#remaining);
    if (to > from) take(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
    this.#remaining -= to - from;
    return to;
  }

  #pushChunked(bytes: Buffer, from: number, take: (part: Buffer) => void): number {
    let at = from;
    while (at < bytes.length && !this.done) {
      if (this.#place === 'data') {
        at = this.#takeData(bytes, at, take);
        if (this.#remaining === 0) this.#place = 'dataEnd';
      } else {
        this.#framingByte(bytes[at] ?? 0);
        at++;
      }
    }
    return at;
  }

  #framingByte(byte: number): void {
    switch (this.#place) {
      case 'size':
        return this.#sizeByte(byte);
      case 'extension':
        if (++this.#lineBytes > sizeLineBytesMax || !isFieldByte(byte)) {
          if (byte !== cr) throw new MalformedMessage('a chunk extension that is none');
          this.#place = 'sizeEnd';
        }
        return;
      case 'sizeEnd':
        expect(byte, lf);
        this.#place = this.#remaining === 0 ? 'trailer' : 'data';
        this.#digits = 0;
        this.#lineBytes = 0;
        return;
      case 'dataEnd':
        expect(byte, cr);
        this.#place = 'dataEndLf';
        return;
      case 'dataEndLf':
        expect(byte, lf);
        this.#place = 'size';
        return;
      case 'trailer':
        return this.#trailerByte(byte);
      case 'trailerEnd':
        expect(byte, lf);
        this.done = this.#lineBytes === 0;
        this.#lineBytes = 0;
        this.#place = 'trailer';
        return;
      case 'data':
        throw new MalformedMessage('data is no framing');
      default:
        return this.#place satisfies never;
    }
  }

  #sizeByte(byte: number): void {
    const digit = hexDigit(byte);
    if (digit >= 0) {
      if (++this.#digits > sizeDigitsMax) throw new MalformedMessage('a chunk too large');
      this.#remaining = this.#remaining * 16 + digit;
      return;
    }
    if (this.#digits === 0) throw new MalformedMessage('a chunk without a size');
    if (byte === semicolon) this.#place = 'extension';
    else if (byte === cr) this.#place = 'sizeEnd';
    else throw new MalformedMessage('a chunk size that is no number');
  }

  #trailerByte(byte: number): void {
    if (byte === cr) {
      this.#place = 'trailerEnd';
      return;
    }
    this.#lineBytes++;
    if (++this.#trailerBytes > trailerBytesMax || !isFieldByte(byte))
      throw new MalformedMessage('trailers that are none');
  }
}

function expect(byte: number, expected: number): void {
  if (byte !== expected) throw new MalformedMessage('a chunk that does not end where it says');
}

function isFieldByte(byte: number): boolean {
  return byte === 0x09 || (byte >= 0x20 && byte !== 0x7f);
}

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  const lower = byte | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1;
}
