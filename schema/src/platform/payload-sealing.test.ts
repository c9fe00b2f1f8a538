import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LendingKey, newPrivateKey } from './lending.ts';
import { openPayload, sealPayload } from './payload-sealing.ts';

test('a sealed payload opens with the private key and its own identity, and with nothing else', () => {
  const privateKey = newPrivateKey();
  const key = new LendingKey(privateKey);
  const again = new LendingKey(privateKey);
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), (text, identity, other) => {
      fc.pre(other !== identity);
      const sealed = sealPayload(key.publicKey, identity, text);
      expect(openPayload(again, identity, sealed)).toBe(text);
      expect(openPayload(new LendingKey(), identity, sealed)).toBeUndefined();
      expect(openPayload(key, other, sealed)).toBeUndefined();
    }),
    { numRuns: 20 },
  );
});

test('no part of two sealed payloads can be exchanged, and none can be cut', () => {
  const key = new LendingKey();
  const one = sealPayload(key.publicKey, 'i', 'one');
  const two = sealPayload(key.publicKey, 'i', 'two');
  expect(openPayload(key, 'i', { ...one, wrappedKey: two.wrappedKey })).toBeUndefined();
  expect(openPayload(key, 'i', { ...one, content: two.content })).toBeUndefined();
  expect(openPayload(key, 'i', { ...one, content: one.content.slice(0, -4) })).toBeUndefined();
});
