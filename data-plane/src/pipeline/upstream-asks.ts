import { AppError, noAsks, type UpstreamAsks } from '@sallyport/schema';
import { clientRequests } from '../bridge/client-profile.ts';
import { urlElicitationRequired } from '../bridge/translate.ts';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { applyEdits, memberRange, scanJson } from '../mcp/json-scanner.ts';
import type { Authorized } from './exchange.ts';

/** Something that an upstream asks of the client. */
export interface UpstreamAsk {
  readonly method: string;
  readonly params: JsonObject;
  /** Where its parameters stand in the message. */
  readonly path: readonly string[];
}

/** Why an ask is refused. */
export type AskRefusal =
  | 'notAllowed'
  | 'tooMany'
  | 'tooLarge'
  | 'tooManyTokens'
  | 'asksForSecret'
  | 'foreignAddress'
  | 'unknownMode';

/** What a message asks of the client: by itself, in an `input_required`, or in an error that names URLs. */
export function asksOf(message: JsonObject): readonly UpstreamAsk[] {
  const method = stringMember(message, 'method');
  if (method !== undefined) {
    // Whatever its id: one that is none is no reason to let it through.
    if (!Object.hasOwn(clientRequests, method)) return [];
    return [{ method, params: objectMember(message, 'params') ?? {}, path: ['params'] }];
  }
  const result = objectMember(message, 'result');
  const questions = result === undefined ? undefined : objectMember(result, 'inputRequests');
  if (questions !== undefined) {
    return Object.entries(questions).map(([key, question]) => ({
      // What is no question is none that may be asked.
      method: isObject(question) ? (stringMember(question, 'method') ?? '') : '',
      params: isObject(question) ? (objectMember(question, 'params') ?? {}) : {},
      path: ['result', 'inputRequests', key, 'params'],
    }));
  }
  const error = objectMember(message, 'error');
  const elicitations = error?.['code'] === urlElicitationRequired ? objectMember(error, 'data')?.['elicitations'] : [];
  if (!Array.isArray(elicitations)) return [];
  return elicitations
    .filter(isObject)
    .map((params) => ({ method: 'elicitation/create', params: { mode: 'url', ...params }, path: [] }));
}

/**
 * Why one of the asks may not reach the client; undefined where all may. Counts them. Looks at what is asked for and
 * where people would be sent; what the texts say is for the detectors.
 */
export function refusedAsk(asks: readonly UpstreamAsk[], authorized: Authorized): AskRefusal | undefined {
  const { server, received } = authorized.routed;
  const { exchange } = received;
  const allowed = server.document.asks ?? noAsks;
  exchange.asks += asks.length;
  if (asks.some(({ method }) => !isAllowed(method, allowed))) return 'notAllowed';
  if (exchange.asks > allowed.perExchangeMax) return 'tooMany';
  for (const ask of asks) {
    const refusal = refusalOf(ask, allowed, server.upstream);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function isAllowed(method: string, allowed: UpstreamAsks): boolean {
  const kind = Object.hasOwn(clientRequests, method) ? clientRequests[method] : undefined;
  return kind !== undefined && allowed[kind];
}

function refusalOf({ method, params }: UpstreamAsk, allowed: UpstreamAsks, upstream: URL): AskRefusal | undefined {
  if (Buffer.byteLength(JSON.stringify(params)) > allowed.bytesMax) return 'tooLarge';
  if (method === 'sampling/createMessage') {
    const tokens = params['maxTokens'];
    return typeof tokens === 'number' && tokens <= allowed.samplingTokensMax ? undefined : 'tooManyTokens';
  }
  if (method !== 'elicitation/create') return undefined;
  switch (params['mode'] ?? 'form') {
    case 'form':
      return asksForSecret(params) ? 'asksForSecret' : undefined;
    case 'url':
      return isOwnAddress(params['url'], allowed, upstream) ? undefined : 'foreignAddress';
    default:
      return 'unknownMode';
  }
}

/** The message without the client's own context being asked for: what other servers said is not this one's to have. */
export function withoutContext(bytes: Buffer, asks: readonly UpstreamAsk[]): Buffer {
  const wide = asks.filter(({ method, params }) => {
    const { includeContext } = params;
    return method === 'sampling/createMessage' && includeContext !== undefined && includeContext !== 'none';
  });
  if (wide.length === 0) return bytes;
  const scan = scanJson(bytes);
  if (!scan.ok) throw new AppError('UPSTREAM_PROTOCOL', { internal: `question refused: ${scan.problem}` });
  const edits = wide.flatMap(({ path: [first = '', ...rest] }) => {
    let range = scan.members.get(first);
    for (const key of [...rest, 'includeContext']) range = range && memberRange(bytes, range, key);
    return range === undefined ? [] : [{ ...range, replacement: '"none"' }];
  });
  return applyEdits(bytes, edits);
}

/** A page of the server itself, or of a host that an administrator named; encrypted, unless the server is not either. */
function isOwnAddress(address: unknown, { elicitationHosts }: UpstreamAsks, upstream: URL): boolean {
  const url = typeof address === 'string' ? URL.parse(address) : null;
  if (url === null || url.username !== '' || url.password !== '') return false;
  if (url.hostname === upstream.hostname) return url.protocol === 'https:' || url.protocol === upstream.protocol;
  return url.protocol === 'https:' && elicitationHosts.includes(url.hostname);
}

/** Words for what nobody may ask for in a form (2025-11-25 client/elicitation, Security Considerations). */
const secretWords =
  /pass(?:word|wd|phrase|code)?s?|pwd|pins?|secrets?|tokens?|credentials?|cvv|cvc|csc|otp|totp|mfa|2fa|ssn|kennwort|passwort|contraseñas?|mot de passe|senha|密码|パスワード|пароль/;
const secretPairs =
  /(?:api|private|access|secret|ssh|encryption|signing|recovery|license|security|seed|one time|verification|auth|authentication|login|backup)(?: ?keys?| ?phrases?| ?codes?| ?answers?)|(?:credit|debit|bank|payment) ?card|card ?(?:number|no)|account ?number|social ?security|routing ?number|iban|two factor/;
const asks = /(?:enter|provide|type|give|tell|share|paste|input|supply|submit|confirm|what is|need|re-?enter|send)\b/;
const secretFormats: ReadonlySet<string> = new Set(['password', 'secret', 'credential']);

/** Names are written in many ways: `apiKey`, `api_key`, `API-KEY` and `ＡＰＩ key` are one. */
function plainWords(text: string): string {
  return ` ${text
    .normalize('NFKC')
    .replace(/[\u200b-\u200f\u2060\ufeff\u00ad]/g, '')
    .replace(/([\p{Ll}\d])(\p{Lu})/gu, '$1 $2')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')} `;
}

const secretWord = new RegExp(` (?:${secretWords.source}) `, 'u');

function namesSecret(text: string): boolean {
  const words = plainWords(text);
  return secretWord.test(words) || secretPairs.test(words);
}

/** Whether no secret fits into the field, whatever its words say: a switch, or fewer numbers than a PIN has. */
function isTooSmall({ type, minimum, maximum }: JsonObject): boolean {
  if (type !== 'integer') return type === 'boolean';
  return typeof minimum === 'number' && typeof maximum === 'number' && maximum - minimum < 1_000;
}

/** Whether a form has a field for a secret, or its message asks for one. */
function asksForSecret(params: JsonObject): boolean {
  const schema = objectMember(params, 'requestedSchema') ?? {};
  const fields = Object.entries(objectMember(schema, 'properties') ?? {});
  for (const [name, field] of fields) {
    if (isObject(field) && isTooSmall(field)) continue;
    if (namesSecret(name)) return true;
    if (!isObject(field)) continue;
    if (secretFormats.has(stringMember(field, 'format') ?? '') || field['writeOnly'] === true) return true;
    if (namesSecret(stringMember(field, 'title') ?? '') || namesSecret(stringMember(field, 'description') ?? ''))
      return true;
  }
  const takesText = fields.some(
    ([, field]) => !isObject(field) || (stringMember(field, 'type') ?? 'string') === 'string',
  );
  const message = stringMember(params, 'message') ?? '';
  return takesText && namesSecret(message) && asks.test(plainWords(message));
}
