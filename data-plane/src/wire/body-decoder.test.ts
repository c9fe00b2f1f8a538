import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BodyDecoder } from './body-decoder.ts';
import { chunkedFraming, MalformedMessage, untilCloseFraming } from './message-head.ts';

/** Feeds bytes in the given cuts; gives the body, and how many bytes were read when it was complete. */
function decode(framing: number, bytes: Buffer, cuts: readonly number[] = []) {
  const decoder = new BodyDecoder(framing);
  const parts: Buffer[] = [];
  let read = 0;
  for (const end of [...cuts.filter((cut) => cut < bytes.length).sort((a, b) => a - b), bytes.length]) {
    if (decoder.done) break;
    read += decoder.push(bytes.subarray(read, end), 0, (part) => parts.push(part));
  }
  return { body: Buffer.concat(parts), done: decoder.done, rest: bytes.subarray(read).toString('latin1') };
}

const part = fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes));
const cuts = fc.array(fc.nat(2_000), { maxLength: 30 });
const trailers = fc.constantFrom('', 'x-trailer: 1\r\n', 'a: b\r\nc:\r\n');
const extension = fc.constantFrom('', ';a=b', '; name="v"');

test('a chunked body is the same wherever its bytes are cut, and what follows it is not touched', () => {
  fc.assert(
    fc.property(fc.array(part), cuts, trailers, extension, (chunks, at, trailer, more) => {
      const encoded = chunks.map((chunk) =>
        Buffer.concat([Buffer.from(`${chunk.length.toString(16)}${more}\r\n`), chunk, Buffer.from('\r\n')]),
      );
      const bytes = Buffer.concat([...encoded, Buffer.from(`0\r\n${trailer}\r\nPOST /next`)]);
      const decoded = decode(chunkedFraming, bytes, at);
      expect(decoded.done).toBe(true);
      expect(decoded.body.equals(Buffer.concat(chunks))).toBe(true);
      expect(decoded.rest).toBe('POST /next');
    }),
  );
});

test('a body of a length ends there, wherever its bytes are cut', () => {
  fc.assert(
    fc.property(part, cuts, (body, at) => {
      const decoded = decode(body.length, Buffer.concat([body, Buffer.from('POST /next')]), at);
      expect([decoded.done, decoded.body.equals(body), decoded.rest]).toEqual([true, true, 'POST /next']);
    }),
  );
});

test('a body that ends with its connection takes all', () => {
  expect(decode(untilCloseFraming, Buffer.from('all of it'), [3])).toMatchObject({ done: false, rest: '' });
});

test.each([
  ['no size', '\r\n'],
  ['a sign', '+2\r\nab\r\n'],
  ['a prefix', '0x2\r\nab\r\n'],
  ['a space before', ' 2\r\nab\r\n'],
  ['a space behind', '2 \r\nab\r\n'],
  ['a bare LF', '2\nab\r\n'],
  ['a size beyond all bounds', '100000000000\r\n'],
  ['an extension without an end', `2;${'x'.repeat(300)}`],
  ['a bare LF in an extension', '2;a\nb\r\n'],
  ['data that is longer than its size', '2\r\nabc\r\n'],
  ['a bare CR behind the data', '2\r\nab\r0\r\n\r\n'],
  ['a bare LF in the trailers', '0\r\na: b\n\r\n'],
  ['trailers without an end', `0\r\n${'a: b\r\n'.repeat(3_000)}`],
])('a chunked body with %s is refused', (_what, bytes) => {
  expect(() => decode(chunkedFraming, Buffer.from(bytes))).toThrow(MalformedMessage);
});
