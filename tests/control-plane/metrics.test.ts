import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url] });
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

async function scrape(operationsUrl = harness.controlPlane.operationsUrl): Promise<ReadonlyMap<string, number>> {
  const text = await (await fetch(`${operationsUrl}/metrics`)).text();
  const samples = text.split('\n').flatMap((line) => {
    const [, name, value] = /^(sallyport_\S+) (\S+)$/.exec(line) ?? [];
    return name === undefined ? [] : [[name, Number(value)] as const];
  });
  return new Map(samples);
}

test('the metrics of the control plane show fleet, configuration, queues, audit trail and API', async () => {
  const { administrator } = harness;
  const server = await administrator.registerServer('counter', upstream.url);
  const { key } = await administrator.createClient('caller');
  await administrator.grant({ serverId: server.id, tools: ['count'] });
  const revision = await administrator.converged();
  const request = { method: 'tools/call', params: { name: 'count', arguments: { id: 'x' } } };
  expect((await askModern(harness.endpoint('counter', key), request)).status).toBe(200);
  await expect(administrator.api.ask('{ server(id: "none") { id } }', {}, z.unknown())).rejects.toThrow(
    /no such object/,
  );

  const seen = await waitFor('the call is stored and counted', async () => {
    const samples = await scrape();
    return (samples.get('sallyport_audit_records_stored_total') ?? 0) > 0 && samples;
  });
  expect(Object.fromEntries(seen)).toMatchObject({
    'sallyport_nodes{state="live"}': 2,
    'sallyport_nodes{state="unconverged"}': 0,
    'sallyport_nodes{state="gone"}': 0,
    sallyport_config_revision: revision,
    sallyport_config_pending: 0,
    sallyport_config_withheld_objects: 0,
    'sallyport_sync_connections{kind="nodes"}': 2,
    'sallyport_sync_connections{kind="strangers"}': 0,
    sallyport_graphql_sockets: 0,
    sallyport_audit_quarantined_lines: 0,
    'sallyport_queue_jobs{queue="audit",state="delayed"}': 0,
    'sallyport_queue_jobs{queue="metrics",state="delayed"}': 0,
    'sallyport_graphql_request_duration_seconds_count{operation="query",code="NOT_FOUND"}': 1,
  });
  expect(seen.get('sallyport_config_compile_duration_seconds_count{outcome="published"}')).toBeGreaterThan(0);
  expect(seen.get('sallyport_graphql_request_duration_seconds_count{operation="mutation",code="OK"}')).toBeGreaterThan(
    4,
  );
  expect(seen.get('sallyport_audit_ingest_lag_seconds_count')).toBeGreaterThan(0);
});

test('the metrics of a node show what serves, its contact and its trail', async () => {
  const revision = await harness.administrator.converged();
  for (const { operationsUrl } of harness.nodes) {
    const seen = await scrape(operationsUrl);
    expect(Object.fromEntries(seen)).toMatchObject({
      sallyport_config_applied_revision: revision,
      sallyport_exchanges_open: 0,
      sallyport_audit_spool_shed_records: 0,
    });
    expect(seen.get('sallyport_audit_spool_bytes')).toBeGreaterThan(0);
    expect(seen.get('sallyport_control_plane_contact_age_seconds')).toBeLessThan(60);
  }
});

test('labels of metrics have few values: no name and no id', async () => {
  const labels = [...(await scrape()).keys()].join('\n');
  expect(labels).not.toMatch(/counter|caller|[0-9a-f]{8}-[0-9a-f]{4}/);
});
