import { isUtf8 } from 'node:buffer';
import { memberPointer } from '../json-pointer.ts';

/** Deeper than any message that passes the strict scan of requests. */
const depthMax = 256;

/**
 * How a text of a message is looked at:
 * - `text`: prose of content items, prompts, questions, progress and logs; such texts are also read as one;
 * - `data`: any other string, read together with the name of its member;
 * - `constant`: a string that names or routes, or holds one of a few words by the protocol; it parts no texts;
 * - `number`: digits, as they are written;
 * - `name`: the name of a member;
 * - `header`: what stands in a header and not in the message.
 */
export type TextRole = 'text' | 'data' | 'constant' | 'number' | 'name' | 'header';

/** One text of a message and where it stands. */
export interface MessageText {
  readonly text: string;
  readonly role: TextRole;
  /** JSON pointer from the message's root. */
  readonly path: string;
  /** Name of the member it is the value of; empty in arrays. */
  readonly member: string;
  /** Of the JSON value it was read from, in UTF-16 units of the message; `end` is exclusive. */
  readonly start: number;
  readonly end: number;
  /** `base64`: the text is what the value decodes to. */
  readonly encoding: 'plain' | 'base64' | 'opaque';
  /** What names, routes or correlates; changing it would make another message of it. */
  readonly isFixed: boolean;
}

/** Members that hold prose, wherever they stand. */
const proseMembers = new Set(['text', 'content', 'message', 'data', 'description', 'title', 'systemPrompt']);
/** Members with a fixed set of short words. */
const constantMembers = new Set([
  'type',
  'role',
  'mimeType',
  'audience',
  'jsonrpc',
  'method',
  'level',
  'status',
  'resultType',
  'lastModified',
  'format',
  'mode',
  'action',
  '$schema',
]);
const constantLengthMax = 64;
/** Opaque to whoever reads the message, and often random: no model and no person reads them. */
const opaqueMembers = new Set([
  'progressToken',
  'requestState',
  'cursor',
  'nextCursor',
  'taskId',
  'requestId',
  'subscriptionId',
  'id',
  'jsonrpc',
  'traceparent',
  'io.modelcontextprotocol/subscriptionId',
]);
/** Where those members are the protocol's own: not inside of arguments or structured content. */
const opaquePlace =
  /^(?:\/(?:id|jsonrpc)|\/(?:params|result)\/(?:requestState|cursor|nextCursor|taskId|requestId|progressToken)|(?:\/[^/]+){0,8}\/_meta\/(?:progressToken|traceparent|io\.modelcontextprotocol~1subscriptionId)|\/params\/notifications\/taskIds\/\d+)$/;
/** What was authorized, or says which kind of thing a part is. */
const fixedPlace =
  /^\/(?:method|params\/(?:name|uri|ref(?:\/.*)?|protocolVersion|level|notifications(?:\/.*)?)|(?:params|result)\/(?:_meta|capabilities|protocolVersion|resultType|serverInfo|clientInfo)(?:\/.*)?|result\/(?:tools|prompts|resources|resourceTemplates)\/\d+\/(?:name|uri|uriTemplate|inputSchema\/.*|outputSchema\/.*)|(?:.*\/)?(?:type|role|mimeType))$/;

const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
/** Bodies that whoever reads them takes for text, whatever else is in them; those of no kind are text by their bytes. */
const textualType =
  /^\s*(?:text\/|image\/svg|(?:application|message|model)\/(?:[\w.-]+[+.-])?(?:json|json5|ndjson|jsonl|xml|yaml|toml|javascript|ecmascript|typescript|sql|graphql|html|csv|rtf|sh|php|python|markdown|x-www-form-urlencoded)\b)/i;
const untypedType = /^\s*(?:application\/octet-stream\b|binary\/octet-stream\b|$)/i;
/** Longer `data` in the letters of base64 that is no text is a picture, a sound or the like, in characters. */
const plainDataLengthMax = 4_096;
/** Fewer digits identify nobody, in digits. */
const numberDigitsMin = 9;

/** Thrown for what cannot be looked at: it is treated as too large to inspect. */
export class NotInspectable extends Error {}

/**
 * Every text of a JSON message: strings, names of members and long numbers of `params`, `result` and `error`, whatever
 * the method, and of bodies in base64 what they decode to where that is text. Images, sounds and other binary bodies are
 * left out. The message must be valid JSON.
 * @throws NotInspectable where it is nested too deeply
 */
export function messageTexts(message: string): MessageText[] {
  const walker = new Walker(message, false);
  walker.value(0, '', '');
  return walker.texts;
}

/** A JSON value of a message that holds no text, in UTF-16 units of the message; `end` is exclusive. */
export interface BinaryValue {
  readonly start: number;
  readonly end: number;
}

/**
 * The same without leaving anything out: ids, cursors, short numbers and all names are among the texts, and the binary
 * bodies, which are none, are told apart. Together they are every value of the message but true, false and null.
 * @throws NotInspectable where it is nested too deeply
 */
export function wholeMessage(message: string): {
  readonly texts: readonly MessageText[];
  readonly binaries: readonly BinaryValue[];
} {
  const walker = new Walker(message, true);
  walker.value(0, '', '');
  return walker;
}

/** A body in base64 that is no text by its bytes; what its object says of it decides. */
interface Unread {
  /** Where its text belongs among the others. */
  readonly at: number;
  readonly body: string;
  readonly place: Pick<MessageText, 'path' | 'member' | 'start' | 'end'>;
}

class Walker {
  readonly texts: MessageText[] = [];
  readonly binaries: BinaryValue[] = [];
  readonly #json: string;
  readonly #isWhole: boolean;
  #at = 0;
  /** Of the object being read. */
  #unread: Unread[] = [];
  #lastString = '';

  constructor(json: string, isWhole: boolean) {
    this.#json = json;
    this.#isWhole = isWhole;
  }

  value(depth: number, path: string, member: string): void {
    if (depth > depthMax) throw new NotInspectable('nested too deeply');
    this.#skipSpace();
    switch (this.#json[this.#at]) {
      case '{':
        return this.#object(depth, path);
      case '[':
        return this.#array(depth, path, member);
      case '"':
        return this.#string(path, member);
      default:
        return this.#scalar(path, member);
    }
  }

  #object(depth: number, path: string): void {
    this.#at += 1;
    const outer = this.#unread;
    this.#unread = [];
    let type = '';
    for (;;) {
      this.#skipSpace();
      if (this.#json[this.#at] !== '"') break;
      const start = this.#at;
      const name = this.#token();
      const at = memberPointer(path, name);
      const isOwn = depth === 0 || (depth === 1 && (path === '/params' || path === '/result'));
      if (!isOwn || this.#isWhole)
        this.#add({ text: name, role: 'name', path: at, member: name, start, end: this.#at });
      this.#skipSpace();
      this.#at += 1;
      this.#lastString = '';
      this.value(depth + 1, at, name);
      if (name === 'mimeType') type = this.#lastString;
      this.#skipSpace();
      if (this.#json[this.#at] !== ',') break;
      this.#at += 1;
    }
    this.#at += 1;
    for (const unread of this.#unread.reverse()) this.#addBody(unread, type);
    this.#unread = outer;
  }

  /** A picture or the like has no text; what is said to be text, and whatever else is mostly that, is read as it stands. */
  #addBody({ at, body, place }: Unread, type: string): void {
    const isText = textualType.test(type);
    const mayBeText = isText || untypedType.test(type);
    const text = mayBeText ? brokenText(Buffer.from(body, 'base64'), isText) : undefined;
    const found = { ...place, role: 'text', isFixed: fixedPlace.test(place.path) } as const;
    if (text !== undefined) this.texts.splice(at, 0, { ...found, text, encoding: 'opaque' });
    // A word of a log may be in the letters of base64.
    else if (type === '' && place.member !== 'blob' && body.length <= plainDataLengthMax) {
      this.texts.splice(at, 0, { ...found, text: body, encoding: 'plain' });
    } else if (this.#isWhole) this.binaries.push({ start: place.start, end: place.end });
  }

  #array(depth: number, path: string, member: string): void {
    this.#at += 1;
    for (let index = 0; ; index += 1) {
      this.#skipSpace();
      if (this.#json[this.#at] === ']' || this.#at >= this.#json.length) break;
      this.value(depth + 1, `${path}/${index}`, member);
      this.#skipSpace();
      if (this.#json[this.#at] !== ',') break;
      this.#at += 1;
    }
    this.#at += 1;
  }

  #string(path: string, member: string): void {
    const start = this.#at;
    const text = this.#token();
    const end = this.#at;
    this.#lastString = text;
    if (text === '' || (this.#isOpaque(path, member) && isToken(member, text))) return;
    const isBody = (member === 'blob' || member === 'data') && text.length >= 4 && base64.test(text);
    if (isBody) {
      const body = bodyText(text);
      if (body === undefined) {
        this.#unread.push({ at: this.texts.length, body: text, place: { path, member, start, end } });
        return;
      }
      this.#add({ text: body.text, role: 'text', path, member, start, end, encoding: body.encoding });
      return;
    }
    this.#add({ text, role: roleOf(member, text), path, member, start, end });
  }

  #scalar(path: string, member: string): void {
    const start = this.#at;
    while (this.#at < this.#json.length && !/[\s,\]}]/.test(this.#json[this.#at] ?? '')) this.#at += 1;
    if (this.#at - start < numberDigitsMin && !this.#isWhole) return;
    const text = this.#json.slice(start, this.#at);
    if (this.#isOpaque(path, member)) return;
    if (/^-?\d/.test(text)) this.#add({ text, role: 'number', path, member, start, end: this.#at });
  }

  #isOpaque(path: string, member: string): boolean {
    return !this.#isWhole && opaqueMembers.has(member) && opaquePlace.test(path);
  }

  #add(found: Omit<MessageText, 'encoding' | 'isFixed'> & { readonly encoding?: MessageText['encoding'] }): void {
    const isFixed = found.role === 'name' || fixedPlace.test(found.path);
    const role = isFixed && found.role === 'data' ? 'constant' : found.role;
    const { text, path, member, start, end, encoding = 'plain' } = found;
    this.texts.push({ text, role, path, member, start, end, encoding, isFixed });
  }

  /** The string that begins here, unescaped. */
  #token(): string {
    const json = this.#json;
    const start = this.#at;
    let end = start;
    do {
      end = json.indexOf('"', end + 1);
      if (end < 0) throw new NotInspectable('a string without an end');
    } while (isEscaped(json, end));
    this.#at = end + 1;
    const raw = json.slice(start + 1, end);
    return raw.includes('\\') ? (JSON.parse(json.slice(start, end + 1)) as string) : raw;
  }

  #skipSpace(): void {
    for (;;) {
      const code = this.#json.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at += 1;
    }
  }
}

/** Of W3C Trace Context, whatever it says of itself. */
const traceparent = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

function isToken(member: string, text: string): boolean {
  return member !== 'traceparent' || traceparent.test(text);
}

function isEscaped(json: string, at: number): boolean {
  let backslashes = 0;
  while (json[at - 1 - backslashes] === '\\') backslashes += 1;
  return backslashes % 2 === 1;
}

function roleOf(member: string, text: string): TextRole {
  if (proseMembers.has(member)) return 'text';
  return constantMembers.has(member) && text.length <= constantLengthMax ? 'constant' : 'data';
}

/** The body as text, in UTF-8 or by its mark in UTF-16; undefined where it is none. */
function bodyText(text: string): { readonly text: string; readonly encoding: 'base64' | 'opaque' } | undefined {
  const bytes = Buffer.from(text, 'base64');
  if (bytes[0] === 0xff && bytes[1] === 0xfe)
    return { text: bytes.subarray(2).toString('utf16le'), encoding: 'opaque' };
  if (bytes[0] === 0xfe && bytes[1] === 0xff && bytes.length % 2 === 0) {
    return { text: Buffer.from(bytes.subarray(2)).swap16().toString('utf16le'), encoding: 'opaque' };
  }
  if (!isUtf8(bytes) || bytes.includes(0)) return undefined;
  return { text: bytes.toString('utf8'), encoding: 'base64' };
}

/** Of the bytes that tell what a body is. */
const sampleLength = 4_096;
const textShareMin = 0.7;

/**
 * A body with bytes that no text has, in UTF-16 where every other byte says so, else in UTF-8 with them replaced;
 * undefined where it is not mostly text and need not be.
 */
function brokenText(bytes: Buffer, isText: boolean): string | undefined {
  const sample = bytes.subarray(0, sampleLength);
  const zeros = [0, 0];
  let printable = 0;
  for (const [at, byte] of sample.entries()) {
    if (byte === 0) zeros[at % 2] = (zeros[at % 2] ?? 0) + 1;
    else if ((byte >= 0x20 && byte < 0x7f) || byte === 0x09 || byte === 0x0a || byte === 0x0d) printable += 1;
  }
  const [high = 0, low = 0] = zeros.map((count) => count / (sample.length / 2));
  if (low > textShareMin && high < 1 - textShareMin) return bytes.toString('utf16le');
  if (high > textShareMin && low < 1 - textShareMin) {
    return Buffer.from(bytes.subarray(0, bytes.length & ~1))
      .swap16()
      .toString('utf16le');
  }
  return isText || printable > sample.length * textShareMin ? bytes.toString('utf8') : undefined;
}
