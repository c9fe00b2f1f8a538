import { join } from 'node:path';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { systemClock } from '@sallyport/schema/platform';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform } from '../kit/terraform.ts';
import { measureGrants, type Step } from '../terraform/scale.ts';
import { startControl } from './topology.ts';

/** What is promised of 500 grants, in seconds. */
const secondsMax: Readonly<Partial<Record<Step['name'], number>>> = { plan: 10, apply: 60, 'plan again': 10 };
const dayMs = 86_400_000;

/** Terraform against the API alone: control plane and PostgreSQL, and one server for the grants. */
export async function measureTerraform(
  grants: number,
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<void> {
  if (!hasTerraform('the benchmark of Terraform')) return;
  const upstream = await startReferenceServer();
  atEnd(() => upstream.stop());
  const database = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => database.stop());
  const [controlPlane, api] = await startControl(`127.0.0.1/32:${new URL(upstream.url).port}`, database.url);
  atEnd(() => controlPlane.stop());
  const provider = await buildProvider();
  atEnd(async () => provider.remove());
  const { me } = await api.ask('{ me { id } }', {}, z.object({ me: z.object({ id: z.string() }) }));
  const administrator = new Administrator(api, 0);
  const expiresAt = new Date(systemClock.now() + dayMs).toISOString();
  const issued = await administrator.mutate(
    'createApiKey',
    { principalId: me.id, name: 'bench', scopes: ['API'], expiresAt },
    'secret',
    z.object({ secret: z.string() }),
  );
  const { id: serverId } = await administrator.registerServer('reference', upstream.url);
  const endpoint = controlPlane.graphqlUrl ?? '';
  const steps = await measureGrants({ provider, endpoint, apiKey: issued.secret, serverId }, grants);
  print(`${grants} grants with for_each, at Terraform's parallelism of 10`);
  for (const { name, seconds, requests, operations } of steps) {
    print(
      `${name.padEnd(12)} ${seconds.toFixed(1).padStart(6)} s ${String(requests).padStart(6)} requests: ${operations}`,
    );
  }
  const late = steps.filter(({ name, seconds }) => seconds > (secondsMax[name] ?? Number.POSITIVE_INFINITY));
  if (late.length > 0) throw new Error(`too slow: ${late.map(({ name }) => name).join(', ')}`);
}
