import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { approvedBy, startPipelineNode } from '../data-plane/pipeline-node.ts';
import type { CallersResult } from './callers.ts';
import type { FromProcess, ToProcess } from './process.ts';

const slug = 'shared';
const nodeCount = 2;

async function told<Type extends FromProcess['type']>(
  child: ChildProcess,
  type: Type,
): Promise<Extract<FromProcess, { type: Type }>> {
  const [message] = (await once(child, 'message')) as [FromProcess];
  if (message.type === type) return message as Extract<FromProcess, { type: Type }>;
  throw new Error(message.type === 'failed' ? message.message : `${message.type} instead of ${type}`);
}

/** Two nodes here; the upstream that all principals share, and the principals, in a process beside. */
export async function measureIsolation(options: {
  readonly principals: number;
  readonly responses: number;
}): Promise<CallersResult> {
  // From the sources where this runs from them, else from what was built of them.
  const script = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? 'process.ts' : 'process.js', import.meta.url));
  const child = fork(script, { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  try {
    const { upstreamUrl } = await told(child, 'ready');
    const keys = Object.fromEntries(
      Array.from({ length: options.principals }, (_, at) => [
        `principal-${at}`,
        `sp_key_of_a_principal_${String(at).padStart(16, '0')}`,
      ]),
    );
    const configuration = {
      servers: [{ slug, url: upstreamUrl, definitions: await approvedBy(upstreamUrl, ['echo', 'other']) }],
      grants: [{ server: slug, tools: ['echo'] }],
      principals: Object.entries(keys).map(([id, key]) => ({ id, key })),
      keepRecords: false,
    };
    const nodes = await Promise.all(Array.from({ length: nodeCount }, () => startPipelineNode(configuration)));
    try {
      const call: ToProcess = {
        type: 'call',
        options: {
          nodes: nodes.map(({ port }) => `http://127.0.0.1:${port}`),
          slug,
          keys,
          responses: options.responses,
        },
      };
      child.send(call);
      return (await told(child, 'done')).result;
    } finally {
      await Promise.all(nodes.map((node) => node.stop()));
    }
  } finally {
    if (child.connected) child.disconnect();
  }
}
