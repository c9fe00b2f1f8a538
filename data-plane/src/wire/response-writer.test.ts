import type { Socket } from 'node:net';
import { PassThrough, Writable } from 'node:stream';
import { systemClock } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ByteStream } from '../pipeline/exchange.ts';
import type { ListenerOptions } from '../server.ts';
import { BodyDecoder } from './body-decoder.ts';
import { chunkedFraming, endOfHead } from './message-head.ts';
import { ResponseWriter } from './response-writer.ts';
import { TurnEnd } from './turn-end.ts';

/** What a client's connection is given, write by write. */
class Wire extends Writable {
  readonly writes: Buffer[] = [];

  override _write(bytes: Buffer, _encoding: string, done: () => void): void {
    this.writes.push(bytes);
    done();
  }

  override _writev(chunks: { readonly chunk: Buffer }[], done: () => void): void {
    this.writes.push(Buffer.concat(chunks.map(({ chunk }) => chunk)));
    done();
  }

  get socket(): Socket {
    return this as unknown as Socket;
  }

  get body(): Buffer {
    const bytes = Buffer.concat(this.writes);
    const parts: Buffer[] = [];
    const decoder = new BodyDecoder(chunkedFraming);
    decoder.push(bytes, endOfHead(bytes, 0), (part) => parts.push(part));
    if (!decoder.done) throw new Error('the answer has no end');
    return Buffer.concat(parts);
  }
}

const options = {
  clock: systemClock,
  limits: { connectionIdleTimeoutMs: 5_000 },
} as unknown as ListenerOptions;

interface Given {
  readonly chunk: Buffer;
  /** Whether it has to be waited for. */
  readonly isLate: boolean;
}

function streamOf(given: readonly Given[], endIsLate = false): ByteStream {
  const left = [...given];
  return {
    next: () => {
      const next = left.shift();
      if (next === undefined) return endIsLate ? Promise.resolve(undefined) : undefined;
      return next.isLate ? new Promise((resolve) => setImmediate(resolve, next.chunk)) : next.chunk;
    },
    cancel: () => Promise.resolve(),
  };
}

function write(socket: Socket, body: ByteStream, ended: (...how: unknown[]) => void = () => undefined): Promise<void> {
  const headers = ['content-type', 'text/event-stream'];
  const response = { status: 200, headers, body, follower: { ended } };
  return new ResponseWriter(socket, options, new TurnEnd()).write(response, answered, () => false);
}
const answered = { method: 'POST', isOld: false };

test('an answer that is there leaves in one piece with its head and its end', async () => {
  const wire = new Wire();
  const events = ['data: 1\n\n', 'data: 2\n\n', 'data: 3\n\n'].map((text) => Buffer.from(text));
  const ended: unknown[][] = [];
  await write(
    wire.socket,
    streamOf(events.map((chunk) => ({ chunk, isLate: false }))),
    (...how) => void ended.push(how),
  );
  expect(wire.writes).toHaveLength(1);
  expect(wire.body.toString()).toBe('data: 1\n\ndata: 2\n\ndata: 3\n\n');
  expect(ended).toEqual([[true, 27, expect.any(Number)]]);
});

test('answers of one turn leave at its end, each once', async () => {
  const turnEnd = new TurnEnd();
  const body = Buffer.from('{}');
  const wires = [new Wire(), new Wire(), new Wire()];
  const ended: string[] = [];
  const writers = wires.map((wire) => new ResponseWriter(wire.socket, options, turnEnd));
  const follower = { ended: (isComplete: boolean) => void ended.push(isComplete ? 'whole' : 'cut') };
  const response = { status: 200, headers: ['content-type', 'application/json'], body, follower };
  const written = writers.map((writer) => writer.write(response, answered, () => false));
  // One whose connection is ended meanwhile.
  writers[1]?.flush();
  expect(wires.map(({ writes }) => writes.length)).toEqual([0, 1, 0]);
  expect(writers.map(({ isWritten }) => isWritten)).toEqual([true, true, true]);
  wires[2]?.destroy();
  await Promise.all(written);
  expect(wires.map(({ writes }) => writes.length)).toEqual([1, 1, 0]);
  expect(String(wires[0]?.writes[0])).toMatch(/\r\n\r\n\{\}$/);
  expect(ended.toSorted()).toEqual(['cut', 'whole', 'whole']);
});

test('what is there is not held back for what may come', async () => {
  const wire = new Wire();
  const later = Promise.withResolvers<Buffer>();
  const stages: (Buffer | Promise<Buffer>)[] = [Buffer.from('data: 1\n\n'), later.promise];
  const written = write(wire.socket, { next: () => stages.shift(), cancel: () => Promise.resolve() });
  expect(Buffer.concat(wire.writes).toString()).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n9\r\ndata: 1\n\n\r\n$/);
  later.resolve(Buffer.from('data: 2\n\n'));
  await written;
  expect(wire.body.toString()).toBe('data: 1\n\ndata: 2\n\n');
});

test('the head of a quiet stream leaves at once', async () => {
  const wire = new Wire();
  const end = Promise.withResolvers<undefined>();
  const written = write(wire.socket, { next: () => end.promise, cancel: () => Promise.resolve() });
  expect(wire.writes.map(String).join('')).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  end.resolve(undefined);
  await written;
  expect(wire.body).toHaveLength(0);
});

test('in whichever parts a stream comes, and whenever, its client gets the same bytes', async () => {
  const length = fc.oneof(fc.nat(100), fc.integer({ min: 32_000, max: 34_000 }));
  const chunk = fc.tuple(length, fc.nat(255)).map(([bytes, fill]) => Buffer.alloc(bytes, fill));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ chunk, isLate: fc.boolean() }), { maxLength: 8 }),
      fc.boolean(),
      async (given, endIsLate) => {
        const wire = new Wire();
        await write(wire.socket, streamOf(given, endIsLate));
        expect(wire.body.equals(Buffer.concat(given.map((one) => one.chunk)))).toBe(true);
      },
    ),
    { numRuns: 50 },
  );
});

test('no more is asked for while the client takes nothing', async () => {
  const wire = new PassThrough({ highWaterMark: 1 });
  let asked = 0;
  const body: ByteStream = {
    next: () => (asked++ < 100 ? Buffer.alloc(64 * 1024) : undefined),
    cancel: () => Promise.resolve(),
  };
  const written = write(wire as unknown as Socket, body).catch(() => undefined);
  await new Promise((resolve) => setImmediate(resolve));
  expect(asked).toBe(1);
  wire.resume();
  await written;
  expect(asked).toBe(101);
});
