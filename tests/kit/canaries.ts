/** Secrets that a test places somewhere, and what finds them elsewhere in whatever form somebody wrote them down. */
import { createHash, randomInt } from 'node:crypto';

const letters = 'abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789';
/** So much of a secret is the secret: one that was cut is found by its beginning or its end. */
const pieceLength = 12;

function random(length: number): string {
  return Array.from({ length }, () => letters[randomInt(letters.length)]).join('');
}

/**
 * Makes secrets that stand nowhere by chance. Those of one maker begin and end alike, so that a text is searched for all
 * at once; it is one maker for what is looked for together.
 */
export function canaryMaker(): () => string {
  const [beginning, end] = [random(pieceLength), random(pieceLength)];
  return () => `${beginning}${random(pieceLength)}${end}`;
}

/** Bytes of a piece that are looked for in base64: without a remainder, wherever in it the piece begins. */
const base64Bytes = 9;
const bytesListed = 8;

interface Forms {
  /** Stand in any case. */
  readonly caseless: readonly string[];
  readonly exact: readonly string[];
}

/** How a piece may stand in a text: as it is, in hexadecimal, in base64, as numbers of bytes. */
function formsOf(piece: string): Forms {
  const bytes = Buffer.from(piece);
  const base64 = [0, 1, 2].map((at) => bytes.subarray(at, at + base64Bytes));
  return {
    caseless: [piece, bytes.toString('hex')].map((form) => form.toLowerCase()),
    exact: [
      ...base64.flatMap((part) => [part.toString('base64'), part.toString('base64url')]),
      [...bytes.subarray(0, bytesListed)].join(','),
    ],
  };
}

/** By a digest, whoever knows a secret can tell that it was here. */
function digestsOf(secret: string): Forms {
  const digest = createHash('sha256').update(secret).digest();
  const cut = (form: string): string => form.slice(0, 2 * pieceLength);
  return {
    caseless: [cut(digest.toString('hex'))],
    exact: [cut(digest.toString('base64')), cut(digest.toString('base64url'))],
  };
}

const byte = (hex: string): string => String.fromCharCode(Number.parseInt(hex, 16));
const decodings: readonly ((text: string) => string)[] = [
  (text) => text.replaceAll(/%([0-9a-f]{2})/gi, (_whole, hex: string) => byte(hex)),
  (text) => text.replaceAll(/\\u00([0-9a-f]{2})/gi, (_whole, hex: string) => byte(hex)),
  (text) => text.replaceAll(/&#x0*([0-9a-f]{1,2});/gi, (_whole, hex: string) => byte(hex)),
  (text) => text.replaceAll(/&#0*(\d{1,3});/g, (_whole, decimal: string) => String.fromCharCode(Number(decimal))),
];
const decodedTimesMax = 3;
const encodedRun = /[A-Za-z0-9+/_-]{24,}/g;
/** That stand for a whole number of bytes: at which of them a run of base64 begins is not known. */
const base64Characters = 4;

interface Reading {
  readonly exact: string;
  readonly caseless: string;
}
export type Readings = readonly [Reading, ...Reading[]];

/** A text, and what it says once it is decoded: escapes of URLs, JSON and HTML, base64, and lines that were broken. */
export function readingsOf(text: string): Readings {
  const readings = new Set<string>();
  let current = text;
  for (let times = 0; times < decodedTimesMax; times++) {
    const decoded = decodings.reduce((read, decode) => decode(read), current);
    if (decoded === current) break;
    current = decoded;
    readings.add(current);
  }
  readings.add(current.replaceAll(/\\r|\\n|\s/g, ''));
  const runs = current.match(encodedRun) ?? [];
  for (let at = 0; at < base64Characters; at++) {
    readings.add(runs.map((run) => Buffer.from(run.slice(at), 'base64').toString('latin1')).join('\n'));
  }
  readings.delete(text);
  const reading = (exact: string): Reading => ({ exact, caseless: exact.toLowerCase() });
  return [reading(text), ...[...readings].map(reading)];
}

function stands(readings: readonly Reading[], forms: Forms): boolean {
  return readings.some(
    ({ exact, caseless }) =>
      forms.exact.some((form) => exact.includes(form)) || forms.caseless.some((form) => caseless.includes(form)),
  );
}

export interface Sought {
  /** By the name that the test gives it; each of at least 24 characters. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Names of those of which a digest may be there. */
  readonly digested?: readonly string[];
}

/** The names of the secrets that stand in a text, whole or cut, in whatever form, or by their digest. */
export function found(text: string, sought: Sought): string[] {
  return foundIn(readingsOf(text), sought);
}

/** The same in what was read before. Where a secret is cut so that it may be one of several, the names of all. */
export function foundIn(readings: Readings, { secrets, digested = [] }: Sought): string[] {
  const names = Object.keys(secrets);
  const ends = new Map<string, string[]>();
  for (const [name, secret] of Object.entries(secrets)) {
    for (const piece of [secret.slice(0, pieceLength), secret.slice(-pieceLength)]) {
      ends.set(piece, [...(ends.get(piece) ?? []), name]);
    }
  }
  const cut = [...ends].flatMap(([piece, of]) => (stands(readings, formsOf(piece)) ? [of] : []));
  const isWhole = (name: string): boolean =>
    stands(readings, formsOf((secrets[name] ?? '').slice(pieceLength, 2 * pieceLength)));
  const shown = cut.flatMap((of) => {
    const whole = of.filter(isWhole);
    return whole.length > 0 ? whole : of;
  });
  const asDigest = names.filter(
    (name) => !digested.includes(name) && stands([readings[0]], digestsOf(secrets[name] ?? '')),
  );
  return [...new Set([...shown, ...asDigest.map((name) => `the digest of ${name}`)])];
}
