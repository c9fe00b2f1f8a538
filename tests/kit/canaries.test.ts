import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { canaryMaker, found } from './canaries.ts';

const canary = canaryMaker();

const each = (text: string, form: (code: string) => string): string =>
  [...Buffer.from(text)].map((byte) => form(byte.toString(16).padStart(2, '0'))).join('');

/** What a program may make of a secret on its way into a text. */
const forms: Readonly<Record<string, (secret: string) => string>> = {
  'as it is': (secret) => secret,
  'in a JSON text': (secret) => JSON.stringify(JSON.stringify({ token: `"${secret}"` })),
  'in small letters': (secret) => secret.toLowerCase(),
  'percent-encoded': (secret) => each(secret, (hex) => `%${hex}`),
  'percent-encoded twice': (secret) => each(secret, (hex) => `%25${hex.toUpperCase()}`),
  'in escapes of JSON': (secret) => each(secret, (hex) => String.raw`\u00${hex}`),
  'in references of HTML': (secret) => each(secret, (hex) => `&#x${hex};`),
  'in decimal references of HTML': (secret) => each(secret, (hex) => `&#${Number.parseInt(hex, 16)};`),
  'in hexadecimal': (secret) => Buffer.from(secret).toString('hex').toUpperCase(),
  'as numbers of bytes': (secret) => JSON.stringify(Buffer.from(`{"a":"${secret}"}`)),
  'in base64': (secret) => btoa(`user:${secret}`),
  'in base64url': (secret) => Buffer.from(`x${secret}ÿÿ`).toString('base64url'),
  'in base64 of base64': (secret) => btoa(JSON.stringify({ token: btoa(`Basic ${secret}`) })),
  'in base64 that is percent-encoded': (secret) => encodeURIComponent(btoa(`??${secret}`)),
  'in the payload of a token': (secret) =>
    `eyJhbGciOiJub25lIn0.${Buffer.from(`{"s":"${secret}"}`).toString('base64url')}.`,
  'in broken lines': (secret) => secret.replaceAll(/.{5}/g, '$&\r\n'),
};
const beginnings = ['', 'x', 'xy', 'xyz', '{"key":"'];

test.each(Object.entries(forms))('a secret is found and told from others %s, wherever it stands', (_name, form) => {
  const secrets = { a: canary(), b: canary(), c: canary(), other: 'Another-secret/that+somebody.else_made' };
  for (const before of beginnings) {
    expect(found(`${before}${form(secrets.b)} and more`, { secrets })).toEqual(['b']);
    expect(found(`${before}${form(secrets.other)} and more`, { secrets })).toEqual(['other']);
  }
});

test('a secret of which a part is shown is found', () => {
  const secrets = { a: canary(), other: 'Another-secret/that+somebody.else_made' };
  for (const [name, secret] of Object.entries(secrets)) {
    for (const part of [`${secret.slice(0, 14)}…`, `…${secret.slice(-14)}`, btoa(secret.slice(0, 14))]) {
      expect(found(part, { secrets })).toEqual([name]);
    }
  }
});

test('a digest of a secret is found, but of those that may be digested', () => {
  const secrets = { a: canary(), b: canary() };
  for (const encoding of ['hex', 'base64', 'base64url'] as const) {
    const digest = createHash('sha256').update(secrets.a).digest(encoding);
    expect(found(`{"digest":"${digest}"}`, { secrets })).toEqual(['the digest of a']);
    expect(found(digest, { secrets, digested: ['a'] })).toEqual([]);
    expect(found(`${digest} ${secrets.a}`, { secrets, digested: ['a'] })).toEqual(['a']);
  }
});

test('nothing else is taken for a secret', () => {
  const secrets = { a: canary(), other: 'Another-secret/that+somebody.else_made' };
  const text = Array.from({ length: 2_000 }, (_, at) => createHash('sha256').update(`${at}`).digest('base64')).join(
    ' ',
  );
  expect(found(`${text} ${btoa(text)} %41%42 &#x41;`, { secrets })).toEqual([]);
});
