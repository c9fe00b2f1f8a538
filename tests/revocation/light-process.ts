/** A process with one real node and several light runtimes; the process that started it tells them whom to call as. */
import { join } from 'node:path';
import { type NodeConfig, parseNodeConfig, startNode } from '@sallyport/data-plane';
import { createLog } from '@sallyport/schema/platform';
import { startLightRuntime } from './light-runtime.ts';
import type { Call } from './victims.ts';
import { Watch, type Watched } from './watch.ts';

export type ToLight =
  | {
      readonly type: 'start';
      readonly environment: Readonly<Record<string, string>>;
      readonly lightCount: number;
      readonly syncUrl: string;
      readonly joinToken: string;
      /** Where each light runtime gets a directory of its own. */
      readonly directory: string;
    }
  | { readonly type: 'watch'; readonly call: Call }
  | { readonly type: 'settle' };
export type FromLight =
  | { readonly type: 'started'; readonly nodeUrl: string }
  | { readonly type: 'admitted' }
  | { readonly type: 'settled'; readonly watched: readonly Watched[] }
  | { readonly type: 'failed'; readonly message: string };

const tell = (message: FromLight): void => void process.send?.(message);
let runtimes: ReturnType<typeof startLightRuntime>[] = [];
let watches: Watch[] = [];

function configOf(environment: Readonly<Record<string, string>>): NodeConfig {
  const parsed = parseNodeConfig(environment);
  if (parsed.ok) return parsed.config;
  throw new Error(parsed.problems.join('; '));
}

async function handle(message: ToLight): Promise<void> {
  switch (message.type) {
    case 'start': {
      const { environment, lightCount, syncUrl, joinToken, directory } = message;
      const name = environment['SALLYPORT_NODE_NAME'] ?? '';
      const names = Array.from({ length: lightCount }, (_, at) => `${name}-light-${at}`);
      runtimes = names.map((light) =>
        startLightRuntime({ syncUrl, joinToken, name: light, directory: join(directory, light) }),
      );
      const node = await startNode(configOf(environment), { log: createLog({ name, level: 'error' }) });
      return tell({ type: 'started', nodeUrl: node.url });
    }
    case 'watch':
      watches = runtimes.map(
        (runtime, at) => new Watch(`light-${process.pid}-${at}`, () => runtime.call(message.call)),
      );
      await Promise.all(watches.map((watch) => watch.admitted));
      return tell({ type: 'admitted' });
    case 'settle':
      for (const watch of watches) watch.settle();
      return tell({ type: 'settled', watched: await Promise.all(watches.map((watch) => watch.refused)) });
    default:
      return message satisfies never;
  }
}

process.on('disconnect', () => process.exit(0));
process.on('message', (message: ToLight) => {
  handle(message).catch((error: unknown) => tell({ type: 'failed', message: String(error) }));
});
