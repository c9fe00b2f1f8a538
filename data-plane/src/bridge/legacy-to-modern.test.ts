import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../mcp/envelope.ts';
import { LegacyToModern, roundsMax, type LegacyToModernEffect, type LegacyToModernEvent } from './legacy-to-modern.ts';

const question = { method: 'elicitation/create', params: { message: 'Name?', requestedSchema: {} } };

function machineFor(method = 'tools/call'): LegacyToModern {
  let questions = 0;
  return new LegacyToModern({
    request: { id: 'client-1', method, params: { name: 'tool', arguments: {} } },
    client: { capabilities: { elicitation: {}, sampling: {} }, info: null },
    revision: '2025-11-25',
    logLevel: null,
    serverName: 'server',
    requestIdPrefix: 'r.',
    newQuestionId: () => `q${++questions}`,
  });
}

/** What a test may make happen; numbers choose among what there is. */
type Step =
  | { readonly kind: 'message'; readonly message: JsonObject; readonly stale: boolean }
  | { readonly kind: 'ended'; readonly stale: boolean }
  | { readonly kind: 'answered'; readonly at: number; readonly response: JsonObject }
  | { readonly kind: 'headersRead' }
  | { readonly kind: 'cancelled' };

const messages = fc.oneof(
  fc.constantFrom<JsonObject>(
    { result: { resultType: 'complete', content: [] } },
    { result: { resultType: 'input_required', inputRequests: { a: question }, requestState: 's' } },
    { result: { resultType: 'input_required', inputRequests: { a: question, b: question } } },
    { result: { resultType: 'input_required', requestState: 's' } },
    { result: { resultType: 'input_required' } },
    { result: { resultType: 'input_required', inputRequests: { a: { method: 'roots/list' } } } },
    { result: { resultType: 'task' } },
    { result: 5 },
    { error: { code: -32020, message: 'header' } },
    { error: { code: -1, message: 'no' } },
    { method: 'notifications/progress', params: { progress: 1 } },
    { method: 'notifications/message', params: {} },
    { method: 'elicitation/create', id: 1 },
    {},
  ),
  fc
    .dictionary(fc.constantFrom('id', 'method', 'result', 'error', 'params'), fc.jsonValue())
    .map((value) => value as JsonObject),
);
const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('message' as const), message: messages, stale: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('ended' as const), stale: fc.boolean() }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('answered' as const),
      at: fc.nat(3),
      response: fc.constantFrom<JsonObject>(
        { result: { action: 'accept' } },
        { error: { code: -1, message: 'x' } },
        {},
      ),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'headersRead' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'cancelled' as const }) },
);

/** Keeps what the machine did, and checks what must hold after each step. */
class Run {
  readonly effects: LegacyToModernEffect[] = [];
  /** What must never happen and did. */
  readonly problems: string[] = [];
  readonly machine = machineFor();
  round = 0;

  constructor() {
    this.#did(this.machine.start());
  }

  take(step: Step): void {
    const open = this.machine.openQuestions;
    const event: LegacyToModernEvent =
      step.kind === 'message'
        ? { type: 'upstreamMessage', ...this.#sent(step) }
        : step.kind === 'ended'
          ? { type: 'upstreamEnded', round: step.stale ? this.round - 1 : this.round }
          : step.kind === 'answered'
            ? { type: 'clientAnswered', questionId: open[step.at] ?? `unknown-${step.at}`, response: step.response }
            : { type: step.kind };
    const wasDone = this.machine.isDone;
    const did = this.machine.handle(event);
    if (wasDone && did.length > 0) this.problems.push('did something after its end');
    this.#did(did);
  }

  /** Most messages are for the request they come with. */
  #sent({ message, stale }: Extract<Step, { kind: 'message' }>): { round: number; message: JsonObject } {
    const round = stale ? this.round - 1 : this.round;
    return { round, message: 'id' in message || 'method' in message ? message : { id: `r.${round}`, ...message } };
  }

  /** Whatever happened before: an upstream that ends and a client that answers bring the request to its end. */
  finish(): void {
    for (let turn = 0; turn <= roundsMax * 20 && !this.machine.isDone; turn++) {
      const [questionId] = this.machine.openQuestions;
      if (questionId !== undefined) this.take({ kind: 'answered', at: 0, response: { result: { action: 'decline' } } });
      else if (this.#isOwedHeaders) this.take({ kind: 'headersRead' });
      else this.take({ kind: 'ended', stale: false });
    }
  }

  /** Since it was sent last; notifications may still be delivered meanwhile. */
  get #isOwedHeaders(): boolean {
    return this.effects.findLast(({ type }) => type === 'send' || type === 'readHeaders')?.type === 'readHeaders';
  }

  #did(effects: readonly LegacyToModernEffect[]): void {
    for (const effect of effects) if (effect.type === 'send') this.round = effect.round;
    this.effects.push(...effects);
  }
}

describe('a bridged request of a legacy client, whatever happens in whatever order', () => {
  test('is answered exactly once, or stopped, and does nothing after', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 60 }), (taken) => {
        const run = new Run();
        for (const step of taken) run.take(step);
        run.finish();
        expect(run.machine.isDone).toBe(true);
        expect(run.machine.openQuestions).toEqual([]);
        const last = run.effects.filter(({ type }) => type === 'answer' || type === 'stop');
        expect(last).toHaveLength(1);
        expect(run.effects.at(-1)).toBe(last[0]);
        const answered = last.flatMap((effect) => (effect.type === 'answer' ? [effect.message['id']] : ['client-1']));
        expect(answered).toEqual(['client-1']);
        expect(run.problems).toEqual([]);
      }),
    );
  });

  test('is sent a bounded number of times, and again only after answers, a state or a header', () => {
    fc.assert(
      fc.property(fc.array(steps, { maxLength: 60 }), (taken) => {
        const run = new Run();
        for (const step of taken) run.take(step);
        const sends = run.effects.filter(({ type }) => type === 'send');
        expect(sends.length).toBeLessThanOrEqual(roundsMax);
        for (const send of sends.slice(1)) {
          const params = send.type === 'send' ? (send.message['params'] as JsonObject) : {};
          const hasReason = 'inputResponses' in params || 'requestState' in params;
          expect(hasReason || run.effects.some(({ type }) => type === 'readHeaders')).toBe(true);
        }
      }),
    );
  });
});

test('the answers go back by the names that the server gave its questions', () => {
  const machine = machineFor();
  machine.start();
  const asked = machine.handle({
    type: 'upstreamMessage',
    round: 1,
    message: {
      id: 'r.1',
      result: { resultType: 'input_required', inputRequests: { a: question, b: question }, requestState: 's' },
    },
  });
  expect(asked.map((effect) => effect.type === 'ask' && effect.questionId)).toEqual(['q1', 'q2']);
  const answer = (questionId: string, value: string) =>
    machine.handle({
      type: 'clientAnswered',
      questionId,
      response: { result: { action: 'accept', content: { value } } },
    });
  expect(answer('q2', 'second')).toEqual([]);
  expect(answer('q1', 'first')).toMatchObject([
    {
      type: 'send',
      round: 2,
      message: {
        id: 'r.2',
        params: {
          requestState: 's',
          inputResponses: { a: { content: { value: 'first' } }, b: { content: { value: 'second' } } },
        },
      },
    },
  ]);
});

test('an answer to another request is not the client’s, but an error that names none is', () => {
  const machine = machineFor();
  machine.start();
  const told = (message: JsonObject) => machine.handle({ type: 'upstreamMessage', round: 1, message });
  for (const id of ['r.2', 'client-1', 1, null]) expect(told({ id, result: { content: [] } })).toEqual([]);
  expect(told({ id: 'r.2', error: { code: -1, message: 'no' } })).toEqual([]);
  expect(told({ id: null, error: { code: -32700, message: 'no' } })).toMatchObject([
    { type: 'answer', message: { id: 'client-1', error: { code: -32700 } } },
  ]);
});
