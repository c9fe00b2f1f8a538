import fc from 'fast-check';
import { expect, test } from 'vitest';
import { GatheredBytes } from './gathered-bytes.ts';

test('what was gathered is what came, however it was cut, and the parts stay as they were', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 3_000 })), (arrays) => {
      const parts = arrays.map((array) => Buffer.from(array));
      const before = parts.map((part) => part.toString('hex'));
      const gathered = new GatheredBytes();
      for (const part of parts) gathered.push(part);
      expect(gathered.whole().equals(Buffer.concat(parts))).toBe(true);
      expect(parts.map((part) => part.toString('hex'))).toEqual(before);
    }),
  );
});

test('a body in parts of one byte is held in about its length', () => {
  const gathered = new GatheredBytes();
  const bytes = Buffer.alloc(64 * 1024, 'x');
  for (let at = 0; at < 1024 * 1024; at++) gathered.push(bytes.subarray(at % bytes.length, (at % bytes.length) + 1));
  expect(gathered.length).toBe(1024 * 1024);
  expect(gathered.whole().buffer.byteLength).toBeLessThanOrEqual(2 * 1024 * 1024);
});

test('an only part is not copied', () => {
  const gathered = new GatheredBytes();
  const part = Buffer.from('only');
  gathered.push(part);
  expect(gathered.whole()).toBe(part);
});

test('a body whose length was announced is held in just that, once a part of it has come', () => {
  for (const announced of [300_000, 100, 250_000]) {
    const gathered = new GatheredBytes(announced);
    for (const size of [65_000, 65_000, 65_000, 65_000, 40_000]) gathered.push(Buffer.alloc(size, size % 256));
    expect(gathered.length).toBe(300_000);
    expect(gathered.whole().subarray(259_999, 260_001)).toEqual(Buffer.from([65_000 % 256, 40_000 % 256]));
    expect(gathered.whole().buffer.byteLength).toBeLessThanOrEqual(announced === 300_000 ? 300_000 : 600_000);
  }
});

test('an announcement alone takes no memory', () => {
  const gathered = new GatheredBytes(16 * 1024 * 1024);
  gathered.push(Buffer.alloc(1_000));
  gathered.push(Buffer.alloc(1_000));
  expect(gathered.whole().buffer.byteLength).toBeLessThanOrEqual(8_000);
});
