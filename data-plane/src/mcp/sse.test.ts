import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { messageEvent, SseParser, withData, type SseEvent } from './sse.ts';

function parse(bytes: Buffer, cuts: readonly number[] = []): SseEvent[] {
  const parser = new SseParser(1024 * 1024);
  const events: SseEvent[] = [];
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    events.push(...parser.push(bytes.subarray(from, cut)));
    from = cut;
  }
  return events;
}
const read = (events: readonly SseEvent[]) =>
  events
    .filter(({ data, id }) => data !== null || id !== null)
    .map(({ data, id }) => ({ data: data?.toString() ?? null, id }));

describe('an event stream is read as the standard says [P14]', () => {
  test.each([
    ['data: a\n\n', [{ data: 'a', id: null }]],
    ['data: a\r\n\r\n', [{ data: 'a', id: null }]],
    [
      'data: a\r\rdata: b\r\r',
      [
        { data: 'a', id: null },
        { data: 'b', id: null },
      ],
    ],
    ['\ufeffdata: a\n\n', [{ data: 'a', id: null }]],
    ['data:a\ndata:  b\ndata\n\n', [{ data: 'a\n b\n', id: null }]],
    [': comment\n\n', []],
    ['id: 7\nevent: message\nretry: 10\ndata: {"x":"é"}\n\n', [{ data: '{"x":"é"}', id: '7' }]],
    ['id\ndata: \n\n', [{ data: '', id: '' }]],
    ['data: unfinished', []],
    ['dat: x\ndatax: y\n\n', []],
    ['\n\n\ndata: a\n\n', [{ data: 'a', id: null }]],
  ] as const)('%j', (text, expected) => {
    expect(read(parse(Buffer.from(text)))).toEqual(expected);
  });
});

test('the wait that a stream wants before it is taken up again is read, where it is a number', () => {
  const waits = ['retry: 10', 'retry:0', 'retry: soon', 'retry: -1', 'data: a'].map(
    (line) => parse(Buffer.from(`${line}\n\n`))[0]?.retryMs,
  );
  expect(waits).toEqual([10, 0, null, null, null]);
});

test('wherever the bytes are cut, the events are the same and their bytes are the stream [P14]', () => {
  const line = fc.constantFrom('data: é😀', 'data:{"a":1}', ': c', 'id: 1', 'event: message', 'data', 'x', '');
  const ending = fc.constantFrom('\n', '\r\n', '\r');
  fc.assert(
    fc.property(
      fc.array(fc.tuple(line, ending), { maxLength: 20 }),
      fc.array(fc.nat(), { maxLength: 20 }),
      fc.boolean(),
      (lines, places, withMark) => {
        const bytes = Buffer.from((withMark ? '\ufeff' : '') + lines.flat().join(''));
        const cuts = places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b);
        const whole = parse(bytes);
        const pieces = parse(bytes, cuts);
        expect(read(pieces)).toEqual(read(whole));
        const raw = Buffer.concat(pieces.map((event) => event.raw));
        expect(bytes.subarray(0, raw.length).equals(raw)).toBe(true);
      },
    ),
    { numRuns: 1000 },
  );
});

test('an event above the limit ends the stream, whole or in pieces', () => {
  const parser = new SseParser(100);
  expect(() => parser.push(Buffer.from(`data: ${'x'.repeat(200)}\n\n`))).toThrow('larger than allowed');
  const slow = new SseParser(100);
  slow.push(Buffer.from('data: '));
  expect(() => {
    for (let at = 0; at < 200; at++) slow.push(Buffer.from('x'));
  }).toThrow('larger than allowed');
});

test('an event that comes byte by byte costs no more than its length', () => {
  const parser = new SseParser(2 * 1024 * 1024);
  const text = `data: ${'x'.repeat(1024 * 1024)}\n\n`;
  const bytes = Buffer.from(text);
  const events: SseEvent[] = [];
  // To copy what has come with each of them would take minutes.
  for (let at = 0; at < bytes.length; at++) events.push(...parser.push(bytes.subarray(at, at + 1)));
  expect(events.map(({ raw }) => raw.toString() === text)).toEqual([true]);
});

test('an event with other data keeps its other fields', () => {
  const [event] = parse(Buffer.from('id: 4\r\nevent: message\r\ndata: a\r\ndata: b\r\nretry: 5\r\n\r\n'));
  if (event === undefined) throw new Error('no event');
  const changed = withData(event, '{\n}');
  expect(changed.toString()).toBe('id: 4\nevent: message\nretry: 5\ndata: {\ndata: }\n\n');
  expect(read(parse(changed))).toEqual([{ data: '{\n}', id: '4' }]);
});

test('a message of our own reads back', () => {
  expect(read(parse(messageEvent('{"a":1}')))).toEqual([{ data: '{"a":1}', id: null }]);
});
