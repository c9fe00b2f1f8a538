import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

/**
 * What must never work of SECURITY.md T19 to T21, and the tests that hold it, by file and name: where one is renamed or
 * lost, this fails. A name is of a test, or of a row of a table of cases.
 */
const negativeCases: Readonly<Record<string, readonly (readonly [file: string, names: readonly string[]])[]>> = {
  'wrong audience': [
    [
      'data-plane/access-tokens.test.ts',
      ['another endpoint', 'this endpoint with a slash', 'all endpoints', 'a list of endpoints', 'no endpoint'],
    ],
    ['oauth/authorization-code.test.ts', ['tokens cannot be asked for another endpoint than was consented to']],
    ['oauth/tokens-on-nodes.test.ts', ['a program gets a token for one endpoint and its scopes']],
  ],
  'ID-JAG as access token': [
    ['data-plane/access-tokens.test.ts', ['the type of an ID-JAG', 'the type of an ID token']],
    ['oauth/federation.test.ts', ['of another type', 'for several servers', 'for another client', 'works once']],
  ],
  'alg confusion': [
    [
      'data-plane/access-tokens.test.ts',
      ['alg none and no signature', 'alg RS256', 'alg ES384', 'the public key as an HMAC secret'],
    ],
    ['oauth/consents.test.ts', ['a token of another client, a forged or an invented one ends nothing']],
    ['oauth/id-tokens.test.ts', ['whose claims were changed', 'without a signature', 'with the client secret as key']],
  ],
  'foreign jku': [
    ['data-plane/access-tokens.test.ts', ['an address of keys in the header', 'a key of its own in the header']],
    ['oauth/federation.test.ts', ['a token of a foreign key ends nothing']],
    ['oauth/id-tokens.test.ts', ['that brings its key along', 'of another key under the same id']],
  ],
  'replayed code': [
    [
      'oauth/authorization-code.test.ts',
      [
        'a code works once, for its client and its verifier; a second use voids what the first gave',
        'two requests with one code at once give tokens at most once',
      ],
    ],
    ['oauth/refresh.test.ts', ['a refresh token used again after half a minute voids its family']],
  ],
  'open redirect': [
    ['oauth/authorization-code.test.ts', ['another path', 'another host', 'userinfo before the host', 'a script']],
  ],
  'second client inheriting consent': [
    [
      'oauth/authorization-code.test.ts',
      ['is remembered for the same client, address, endpoint and scopes alone, and for its user alone'],
    ],
    ['oauth/consents.test.ts', ['inherits neither consent nor tokens of the one before']],
    ['oauth/refresh.test.ts', ['a refresh token of one client is nothing in the hands of another']],
  ],
  'cross-user consent': [
    [
      'oauth/authorization-code.test.ts',
      ['is taken only with the token of its page, from its origin and with its cookie'],
    ],
    ['oauth/consents.test.ts', ['takes a form of its own alone: token, origin and cookie, and consents of its user']],
    ['oauth/clients.test.ts', ['a user’s own consents and sessions are the user’s to end']],
  ],
  'mix-up': [
    [
      'oauth/federation.test.ts',
      [
        'an answer of one provider to a login at another is none, though it names no issuer (mix-up)',
        'an answer is taken once, in the browser that was sent, and never where it names another issuer',
        'what a provider says of an error is not shown',
      ],
    ],
  ],
};

test.each(Object.entries(negativeCases))('%s has tests that hold it', (_case, held) => {
  for (const [file, names] of held) {
    const text = readFileSync(new URL(`../${file}`, import.meta.url), 'utf8');
    expect(text).not.toMatch(/\b(?:test|describe)\.(?:skip|only|todo)\b/);
    for (const name of names) {
      const isNamed = text.includes(`['${name}', `) || text.includes(`'${name}`) || text.includes(`"${name}`);
      expect([file, name, isNamed]).toEqual([file, name, true]);
    }
  }
});
