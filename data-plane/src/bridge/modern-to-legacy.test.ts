import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../mcp/envelope.ts';
import {
  ModernToLegacy,
  type ModernToLegacyEffect,
  type ModernToLegacyEvent,
  notificationsLengthMax,
  questionsLengthMax,
} from './modern-to-legacy.ts';

const elicit = (id: string | number): JsonObject => ({
  jsonrpc: '2.0',
  id,
  method: 'elicitation/create',
  params: { message: 'Name?', requestedSchema: { type: 'object', properties: {}, required: [] } },
});

function machineFor(): ModernToLegacy {
  return new ModernToLegacy({
    request: { id: 'c0', method: 'tools/call', params: { name: 'tool', _meta: { progressToken: 1 } } },
    upstreamId: 'u',
    capabilities: { elicitation: {} },
    logLevel: 'info',
    serverInfo: null,
  });
}

type Step =
  | { readonly kind: 'message'; readonly message: JsonObject }
  | { readonly kind: 'resumed'; readonly answers: 'all' | 'none' | 'unfit' }
  | { readonly kind: 'upstreamEnded' | 'settled' | 'clientGone' | 'expired' };

const messages = fc.oneof(
  fc.nat(5).map(elicit),
  fc.constantFrom<JsonObject>(
    { id: 'u', result: { content: [] } },
    { id: 'u', error: { code: -32000, message: 'x' } },
    {
      id: 'u',
      error: { code: -32042, message: 'x', data: { elicitations: [{ mode: 'url', url: 'https://a', message: 'm' }] } },
    },
    { id: null, error: { code: -32700, message: 'x' } },
    { id: 'other', result: {} },
    { id: 9, method: 'ping' },
    { id: 10, method: 'sampling/createMessage', params: {} },
    { method: 'notifications/progress', params: { progressToken: 1, progress: 1 } },
    { method: 'notifications/message', params: { level: 'info', data: 1 } },
    { method: 'notifications/cancelled', params: { requestId: 1 } },
    { method: 'notifications/tools/list_changed' },
  ),
  fc
    .dictionary(fc.constantFrom('id', 'method', 'result', 'error', 'params'), fc.jsonValue())
    .map((value) => value as JsonObject),
);
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('message' as const), message: messages }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('resumed' as const),
      answers: fc.constantFrom('all' as const, 'none' as const, 'unfit' as const),
    }),
  },
  { weight: 4, arbitrary: fc.constant({ kind: 'settled' as const }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      { kind: 'upstreamEnded' as const },
      { kind: 'clientGone' as const },
      { kind: 'expired' as const },
    ),
  },
);

/** The id of the client's request that an effect replies to, if it does. */
function repliedTo(effect: ModernToLegacyEffect): unknown[] {
  switch (effect.type) {
    case 'answer':
      return [effect.message['id']];
    case 'park':
    case 'askBefore':
      return [effect.id];
    default:
      return [];
  }
}

class Run {
  readonly effects: ModernToLegacyEffect[] = [];
  /** What must never happen and did. */
  readonly problems: string[] = [];
  readonly machine = machineFor();
  /** Requests of the upstream so far. */
  asked = 0;
  #attached: string | undefined = 'c0';
  #requests = 0;
  #questions: JsonObject = {};

  constructor() {
    this.#did(this.machine.start());
  }

  take(step: Step): void {
    const wasDone = this.machine.isDone;
    if (step.kind === 'resumed' && this.machine.isParked) this.#attached = `c${this.#requests + 1}`;
    if (step.kind === 'message' && 'method' in step.message && step.message['id'] !== undefined) this.asked += 1;
    const did = this.machine.handle(this.#event(step));
    if (wasDone && did.length > 0) this.problems.push('did something after its end');
    this.#did(did);
  }

  #event(step: Step): ModernToLegacyEvent {
    switch (step.kind) {
      case 'message':
        return { type: 'upstreamMessage', message: step.message };
      case 'resumed': {
        const answer = step.answers === 'all' ? { action: 'decline' } : { action: 'accept' };
        const keys = step.answers === 'none' ? [] : Object.keys(this.#questions);
        this.#requests += 1;
        return {
          type: 'resumed',
          id: `c${this.#requests}`,
          responses: Object.fromEntries(keys.map((key) => [key, answer])),
        };
      }
      default:
        return { type: step.kind };
    }
  }

  #did(effects: readonly ModernToLegacyEffect[]): void {
    for (const effect of effects) {
      if (effect.type === 'park') this.#questions = effect.questions;
      // Nothing is told while no request of the client is under way, and a reply is the one to that request.
      if (effect.type === 'deliver' && this.#attached === undefined) this.problems.push('told nobody');
      const [replied] = repliedTo(effect);
      if (replied === undefined) continue;
      if (replied !== this.#attached) this.problems.push(`replied to ${JSON.stringify(replied)}`);
      this.#attached = undefined;
    }
    this.effects.push(...effects);
  }

  /** The ids of the client's requests that got a reply, in order. */
  get replied(): unknown[] {
    return this.effects.flatMap(repliedTo);
  }
}

const runs = fc.array(steps, { maxLength: 60 }).map((taken) => {
  const run = new Run();
  for (const step of taken) run.take(step);
  return run;
});

describe('a bridged call of a modern client, whatever happens in whatever order', () => {
  test('gives each request of the client one reply at most', () => {
    fc.assert(
      fc.property(runs, ({ replied, problems }) => {
        expect(problems).toEqual([]);
        expect(new Set(replied).size).toBe(replied.length);
      }),
    );
  });

  test('ends once toward the upstream: by its response, or by a cancellation, never by both', () => {
    fc.assert(
      fc.property(runs, (run) => {
        // Nobody comes back: the parked one expires, the one under way loses its client.
        run.take({ kind: run.machine.isParked ? 'expired' : 'clientGone' });
        expect(run.machine.isDone).toBe(true);
        const ends = run.effects.filter(({ type }) => type === 'finished' || type === 'abandon');
        expect(ends).toHaveLength(1);
        const cancellations = run.effects.filter(
          (effect) => effect.type === 'post' && effect.message['method'] === 'notifications/cancelled',
        );
        expect(cancellations).toHaveLength(ends[0]?.type === 'abandon' ? 1 : 0);
        expect(run.effects.filter(({ type }) => type === 'send')).toHaveLength(1);
      }),
    );
  });

  test('gives the upstream one response at most for each of its questions', () => {
    fc.assert(
      fc.property(runs, ({ effects, asked }) => {
        const responses = effects.filter((effect) => effect.type === 'post' && !('method' in effect.message));
        expect(responses.length).toBeLessThanOrEqual(asked);
      }),
    );
  });
});

test('a response that came while the client was away is given on its return', () => {
  const machine = machineFor();
  machine.start();
  machine.handle({ type: 'upstreamMessage', message: elicit(1) });
  expect(machine.handle({ type: 'settled' })).toMatchObject([{ type: 'park', id: 'c0' }]);
  expect(machine.handle({ type: 'upstreamMessage', message: { id: 'u', result: { content: [] } } })).toEqual([
    { type: 'finished' },
  ]);
  expect(machine.handle({ type: 'resumed', id: 'c1', responses: {} })).toMatchObject([
    { type: 'answer', message: { id: 'c1', result: { resultType: 'complete', content: [] } } },
  ]);
  expect(machine.isDone).toBe(true);
});

test('an upstream that floods a call whose client is away fills a bounded memory', () => {
  const machine = machineFor();
  machine.start();
  machine.handle({ type: 'upstreamMessage', message: elicit(1) });
  machine.handle({ type: 'settled' });
  const data = 'x'.repeat(notificationsLengthMax / 4);
  for (let at = 0; at < 64; at++) {
    const message = { jsonrpc: '2.0', method: 'notifications/message', params: { level: 'error', data, at } };
    machine.handle({ type: 'upstreamMessage', message });
  }
  const [effect] = machine.handle({ type: 'resumed', id: 'c1', responses: { r1_elicitation: { action: 'decline' } } });
  expect(effect).toMatchObject({ type: 'deliver', message: { params: { at: 61 } } });
});

test('an upstream whose questions are too long together is told so', () => {
  const machine = machineFor();
  machine.start();
  const message = 'x'.repeat(questionsLengthMax / 2);
  const asked = [1, 2].map((id) => {
    const params = { message, requestedSchema: { type: 'object', properties: {} } };
    return machine.handle({ type: 'upstreamMessage', message: { id, method: 'elicitation/create', params } });
  });
  expect(asked).toMatchObject([[{ type: 'settle' }], [{ type: 'post', message: { id: 2, error: { code: -32603 } } }]]);
});
