import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type ListenEffect, type ListenEvent, ListenUpkeep } from './listen-upkeep.ts';

const message = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' };

type Step = { readonly kind: ListenEvent['type']; readonly at: number };
const steps: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    ...(['changed', 'changed', 'acknowledged', 'acknowledged', 'told', 'over', 'waited', 'waited'] as const),
  ),
  at: fc.nat(3),
});

class Run {
  readonly machine = new ListenUpkeep();
  readonly open = new Set<number>();
  readonly acknowledged = new Set<number>();
  readonly problems: string[] = [];
  opened = 0;
  changes = 0;
  losses = 0;
  isWaiting = false;

  constructor() {
    this.#did(this.machine.start());
  }

  take({ kind, at }: Step): void {
    const listen = [...this.open][at] ?? at + 100;
    if (kind === 'changed') this.changes += 1;
    if (kind === 'over' && this.open.has(listen)) this.losses += 1;
    if (kind === 'waited') this.isWaiting = false;
    if (kind === 'acknowledged' && this.open.has(listen)) this.acknowledged.add(listen);
    const event: ListenEvent =
      kind === 'told'
        ? { type: kind, listen, message }
        : kind === 'changed' || kind === 'waited' || kind === 'ended'
          ? { type: kind }
          : { type: kind, listen };
    const did = this.machine.handle(event);
    const delivered = did.filter(({ type }) => type === 'deliver').length;
    if (delivered > (kind === 'told' && this.acknowledged.has(listen) ? 1 : 0)) this.problems.push('told out of turn');
    this.#did(did);
  }

  #did(effects: readonly ListenEffect[]): void {
    for (const effect of effects) {
      if (effect.type === 'open') {
        this.opened += 1;
        this.open.add(effect.listen);
      }
      if (effect.type === 'close' && !this.open.delete(effect.listen)) this.problems.push('closed what was not open');
      if (effect.type === 'wait') this.isWaiting = true;
      if (this.open.size > 2) this.problems.push('three at once');
    }
    if (this.open.size !== this.machine.open.length) this.problems.push('lost count');
  }
}

const runs = fc.array(steps, { maxLength: 80 }).map((taken) => {
  const run = new Run();
  for (const step of taken) run.take(step);
  return run;
});

describe('the subscriptions of a client that listens, whatever happens in whatever order', () => {
  test('are two at most, told by one, opened no oftener than there is reason to, and closed at the end', () => {
    const property = fc.property(runs, (run) => {
      expect(run.problems).toEqual([]);
      expect(run.opened).toBeLessThanOrEqual(1 + run.changes + run.losses);
      run.take({ kind: 'ended', at: 0 });
      expect(run.open.size).toBe(0);
      for (const kind of ['changed', 'waited', 'acknowledged'] as const) run.take({ kind, at: 0 });
      expect(run.open.size).toBe(0);
    });
    fc.assert(property);
  });

  test('come to be what is wanted, once the upstream acknowledges them', () => {
    const property = fc.property(runs, (run) => {
      run.take({ kind: 'changed', at: 0 });
      const before = run.opened;
      const hadOpening = run.open.size > run.acknowledged.size;
      for (let turn = 0; turn < 6; turn++) {
        run.take({ kind: 'acknowledged', at: run.open.size - 1 });
        if (run.isWaiting) run.take({ kind: 'waited', at: 0 });
      }
      expect(run.open.size).toBe(1);
      expect(run.opened - before).toBeLessThanOrEqual(hadOpening ? 2 : 1);
    });
    fc.assert(property);
  });
});

test('a client that changes its mind a hundred times while one is on its way causes one more', () => {
  const run = new Run();
  run.take({ kind: 'acknowledged', at: 0 });
  run.take({ kind: 'waited', at: 0 });
  for (let turn = 0; turn < 100; turn++) run.take({ kind: 'changed', at: 0 });
  expect(run.opened).toBe(2);
  run.take({ kind: 'acknowledged', at: 1 });
  run.take({ kind: 'waited', at: 0 });
  expect([run.opened, run.open.size]).toEqual([3, 2]);
});
