import { Counter, Histogram, Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { mergeMetrics } from './merge-metrics.ts';

function registryOf(worker: string, calls: number): Registry {
  const registry = new Registry();
  registry.setDefaultLabels({ worker });
  new Counter({ name: 'calls_total', help: 'Calls.', registers: [registry] }).inc(calls);
  new Histogram({ name: 'took', help: 'Took.', buckets: [1], registers: [registry] }).observe(calls);
  return registry;
}

test('samples of all workers stand under one help and type each', async () => {
  const merged = mergeMetrics([await registryOf('1', 3).metrics(), await registryOf('2', 5).metrics()]);
  expect(merged.match(/^# HELP calls_total/gm)).toHaveLength(1);
  expect(merged.match(/^# TYPE took histogram/gm)).toHaveLength(1);
  expect(merged).toMatch(/calls_total\{worker="1"\} 3\ncalls_total\{worker="2"\} 5\n\n# HELP took/);
  expect(merged).toContain('took_count{worker="2"} 1');
});

test('what only one of them has is kept', async () => {
  const other = new Registry();
  new Counter({ name: 'own_total', help: 'Own.', registers: [other] }).inc();
  const merged = mergeMetrics([await other.metrics(), await registryOf('1', 1).metrics()]);
  expect(merged).toContain('own_total 1');
  expect(merged).toContain('calls_total{worker="1"} 1');
});
