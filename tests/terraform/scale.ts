/** Many grants by Terraform: how long each step takes, and how many requests it sends. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { z } from 'zod';
import { type Provider, Workspace } from '../kit/terraform.ts';

export interface Step {
  readonly name: 'plan' | 'apply' | 'plan again' | 'destroy';
  readonly seconds: number;
  readonly requests: number;
  /** Requests by operation, the most first. */
  readonly operations: string;
  readonly output: string;
}

export interface Settings {
  readonly provider: Provider;
  /** URL of the API. */
  readonly endpoint: string;
  readonly apiKey: string;
  readonly serverId: string;
}

interface Counting {
  readonly url: string;
  /** How often each operation was asked since the last time. */
  take(): ReadonlyMap<string, number>;
  stop(): Promise<void>;
}

const asked = z.object({ operationName: z.string() });

/** Passes requests on, and counts them by operation. */
async function startCounting(target: string): Promise<Counting> {
  let counts = new Map<string, number>();
  const server = createServer((incoming, response) => {
    const chunks: Buffer[] = [];
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
    incoming.on('end', () => {
      const headers = {
        'content-type': 'application/json',
        authorization: incoming.headers.authorization ?? '',
      };
      const body = Buffer.concat(chunks);
      const { operationName } = asked.parse(JSON.parse(body.toString()));
      counts.set(operationName, (counts.get(operationName) ?? 0) + 1);
      fetch(target, { method: 'POST', headers, body })
        .then(async (answer) => {
          response.writeHead(answer.status, { 'content-type': 'application/json' });
          response.end(await answer.text());
        })
        .catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/graphql`,
    take() {
      const taken = counts;
      counts = new Map();
      return taken;
    },
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Plans, applies, plans again and destroys `count` grants of one server to four groups. */
export async function measureGrants(
  { provider, endpoint, apiKey, serverId }: Settings,
  count: number,
): Promise<readonly Step[]> {
  const counting = await startCounting(endpoint);
  try {
    const workspace = new Workspace(provider, { endpoint: counting.url, apiKey });
    workspace.write({
      'groups.tf':
        'resource "sallyport_group" "some" {\n  for_each = toset(["a", "b", "c", "d"])\n  name = "scale ${each.key}"\n}\n',
    });
    await workspace.apply();
    workspace.write({
      'grants.tf': `
        locals { numbers = { for number in range(${count}) : format("%04d", number) => element(["a", "b", "c", "d"], number) } }
        resource "sallyport_grant" "many" {
          for_each  = local.numbers
          name      = "grant \${each.key}"
          subject   = { kind = "group", id = sallyport_group.some[each.value].id }
          server_id = "${serverId}"
          effect    = "allow"
          tools     = ["tool_\${each.key}", "test_*"]
          when      = "principal.id != ''"
          reason    = "One of many"
        }
      `,
    });
    const steps: Step[] = [];
    const step = async (name: Step['name'], work: () => Promise<string>): Promise<void> => {
      counting.take();
      const startedMs = performance.now();
      const output = await work();
      const counts = [...counting.take()].toSorted(([, one], [, other]) => other - one);
      steps.push({
        name,
        seconds: (performance.now() - startedMs) / 1000,
        requests: counts.reduce((sum, [, count]) => sum + count, 0),
        operations: counts.map(([operation, count]) => `${count} ${operation}`).join(', '),
        output,
      });
    };
    await step('plan', async () => (await workspace.plan()).output);
    await step('apply', () => workspace.apply());
    await step('plan again', async () => (await workspace.plan()).output);
    await step('destroy', () => workspace.destroy());
    return steps;
  } finally {
    await counting.stop();
  }
}
