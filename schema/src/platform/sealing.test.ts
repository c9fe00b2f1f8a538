import { expect, test } from 'vitest';
import { open, seal, sealingKeyFromSecret } from './sealing.ts';

const key = sealingKeyFromSecret('a secret of more than thirty-two characters');
const other = sealingKeyFromSecret('another secret of more than thirty-two characters');
const keys = new Map([[key.id, key]]);

test('what was sealed opens with the same key and purpose', () => {
  expect(open(keys, 'session', seal(key, 'session', 'text'))?.toString()).toBe('text');
});
test('another purpose does not open it', () =>
  expect(open(keys, 'state', seal(key, 'session', 'text'))).toBeUndefined());
test('a key that is not published does not open it', () =>
  expect(open(keys, 'session', seal(other, 'session', 'text'))).toBeUndefined());
test('a key under a foreign id does not open it', () => {
  const sealed = seal(other, 'session', 'text').replace(other.id, key.id);
  expect(open(keys, 'session', sealed)).toBeUndefined();
});
test('no changed character opens', () => {
  const sealed = seal(key, 'session', 'text');
  for (let at = key.id.length + 1; at < sealed.length; at++) {
    const changed = sealed.slice(0, at) + (sealed[at] === 'A' ? 'B' : 'A') + sealed.slice(at + 1);
    const opened = open(keys, 'session', changed);
    // The last character may hold bits that base64url does not carry; then the bytes are the same.
    expect(
      opened === undefined ||
        Buffer.from(changed.slice(key.id.length + 1), 'base64url').equals(
          Buffer.from(sealed.slice(key.id.length + 1), 'base64url'),
        ),
    ).toBe(true);
  }
});
test.each(['', '.', 'x', `${key.id}.`, `${key.id}.AAAA`, 'é.é'])(
  'garbage %j does not open and does not throw',
  (text) => {
    expect(open(keys, 'session', text)).toBeUndefined();
  },
);
