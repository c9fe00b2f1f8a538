import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findInTexts } from './find-in-texts.ts';
import { redactSecrets } from './redact-secrets.ts';
import { secretMembersOf } from './secret-members.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const redact = (messages: readonly object[], members: readonly string[] = []) =>
  redactSecrets(
    messages.map((message) => JSON.stringify(message)),
    members,
    (input) => findInTexts(input, () => 0),
  );
const first = async (message: object, members: readonly string[] = []): Promise<unknown> =>
  JSON.parse((await redact([message], members)).messages[0] ?? '');

test('a message without secrets keeps every character', async () => {
  const value = fc.letrec((tie) => ({
    any: fc.oneof(fc.string({ maxLength: 3 }), fc.integer({ max: 99 }), fc.boolean(), fc.constant(null), tie('all')),
    all: fc.oneof(fc.array(tie('any'), { maxLength: 3 }), fc.dictionary(fc.constantFrom('a', 'b"', '/~'), tie('any'))),
  })).all;
  await fc.assert(
    fc.asyncProperty(value, async (given) => {
      const message = JSON.stringify({ jsonrpc: '2.0', id: 1, params: { arguments: given } }, null, 1);
      const kept = await redactSecrets([message], [], (input) => findInTexts(input, () => 0));
      expect(kept).toEqual({ messages: [message], redactions: 0 });
    }),
    { numRuns: 50 },
  );
});

test('what the detector finds is taken out of values, names, ids, cursors and encoded bodies', async () => {
  const message = {
    jsonrpc: '2.0',
    id: `call-${token}`,
    result: {
      [token]: 1,
      nextCursor: token,
      content: [{ type: 'resource', resource: { blob: Buffer.from(`key ${token}`).toString('base64') } }],
    },
  };
  const { messages, redactions } = await redact([message]);
  const text = messages.join();
  expect(redactions).toBe(4);
  expect(text).not.toContain(token);
  const blob = (JSON.parse(text) as typeof message).result.content[0]?.resource.blob ?? '';
  expect(Buffer.from(blob, 'base64').toString()).toBe('key [redacted githubToken]');
});

test('a secret that is cut over two messages of a stream is taken out of both', async () => {
  const event = (text: string) => ({ jsonrpc: '2.0', method: 'notifications/progress', params: { message: text } });
  const { messages } = await redact([event(`it is ${token.slice(0, 20)}`), event(`${token.slice(20)} as I said`)]);
  expect(messages.map((message) => (JSON.parse(message) as ReturnType<typeof event>).params.message)).toEqual([
    'it is [redacted githubToken]',
    '[redacted githubToken] as I said',
  ]);
});

test('members with secret names lose their values at any depth, and keep their types', async () => {
  const given = { clientSecret: 'x', 'X-Api-Key': ['y', { z: 'w' }], pin: 1234, maxTokens: 5, note: 'plain' };
  expect(await first({ params: { arguments: given, _meta: { progressToken: 'p1' } } })).toEqual({
    params: {
      arguments: {
        clientSecret: '[redacted secret member]',
        'X-Api-Key': ['[redacted secret member]', { z: '[redacted secret member]' }],
        pin: 0,
        maxTokens: 5,
        note: 'plain',
      },
      _meta: { progressToken: 'p1' },
    },
  });
});

test('members lose their secret values also where the text of an item is JSON, plain or in base64', async () => {
  const inner = { user: 'jane', password: 'hunter2', answers: [{ seal: 'blue', pin: 1234 }] };
  const kept = {
    user: 'jane',
    password: '[redacted secret member]',
    answers: [{ seal: '[redacted secret member]', pin: 0 }],
  };
  const blob = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64');
  const answer = (value: typeof inner) => ({
    result: {
      structuredContent: value,
      content: [
        { type: 'text', text: ` ${JSON.stringify(value)}` },
        { type: 'text', text: JSON.stringify([{ quoted: JSON.stringify(value) }]) },
        { type: 'resource', resource: { blob: blob(value) } },
        { type: 'text', text: '{ no JSON, only a brace' },
      ],
    },
  });
  expect(await first(answer(inner), ['seal'])).toEqual(answer(kept as unknown as typeof inner));
  const { redactions } = await redact([answer(inner)], ['seal']);
  expect(redactions).toBe(12);
  let nested = JSON.stringify(inner);
  for (let depth = 0; depth < 6; depth += 1) nested = JSON.stringify({ nested });
  await expect(redact([{ nested }])).rejects.toThrow('too often');
});

test('members that a schema calls secret lose their values', async () => {
  const message = { params: { arguments: { answer: 'blue', hint: 'sky' } } };
  expect(await first(message, ['answer'])).toEqual({
    params: { arguments: { answer: '[redacted secret member]', hint: 'sky' } },
  });
  expect(await first(message, ['*'])).toEqual({
    params: { arguments: { answer: '[redacted secret member]', hint: '[redacted secret member]' } },
  });
});

test('bodies that are no text are not kept', async () => {
  const picture = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 1, 2, 3, 255, 254, 253, 1]).toString('base64').repeat(400);
  expect(await first({ result: { content: [{ type: 'image', data: picture }] } })).toEqual({
    result: { content: [{ type: 'image', data: '[not stored: binary]' }] },
  });
});

test('what cannot be read or inspected is not kept', async () => {
  const deep = `${'['.repeat(300)}1${']'.repeat(300)}`;
  await expect(redactSecrets([deep], [], () => ({ findings: [], durations: {} }))).rejects.toThrow('nested');
  // A body that a server calls JSON, with a secret where nobody would look.
  for (const text of [`token ${token}`, `{"a":1} ${token}`, `<p>${token}</p>`, `[1,${token}]`]) {
    await expect(redactSecrets([text], [], () => ({ findings: [], durations: {} }))).rejects.toThrow('no JSON');
  }
  const broken = () => Promise.reject(new Error('no thread'));
  await expect(redactSecrets(['{"a":"b"}'], [], broken)).rejects.toThrow('no thread');
});

test('secret members of a schema are found behind references, choices, items and anchors', () => {
  const schema = {
    properties: {
      plain: { type: 'string' },
      direct: { type: 'string', writeOnly: true },
      listed: { items: { format: 'password' } },
      chosen: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/hidden' }] },
      anchored: { $ref: '#named' },
      nested: { properties: { inner: { $ref: '#/$defs/hidden' }, 'a/b': { $ref: '#/$defs/with~1slash' } } },
      round: { $ref: '#/$defs/round' },
      format: { type: 'string' },
    },
    $defs: {
      hidden: { type: 'string', writeOnly: true },
      other: { $anchor: 'named', format: 'password' },
      'with/slash': { format: 'password' },
      round: { properties: { again: { $ref: '#/$defs/round' }, key: { format: 'password' } } },
      unused: { writeOnly: true },
    },
  };
  expect(secretMembersOf([schema])).toEqual(['a/b', 'anchored', 'chosen', 'direct', 'inner', 'key', 'listed']);
  expect(secretMembersOf([{ additionalProperties: { writeOnly: true } }])).toEqual(['*']);
  expect(secretMembersOf([{ properties: { far: { $ref: 'https://elsewhere/schema' } } }])).toEqual(['far']);
  expect(secretMembersOf([true, null, { type: 'object' }])).toEqual([]);
});
