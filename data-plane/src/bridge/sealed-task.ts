import { z } from 'zod';
import { AppError } from '@sallyport/schema';
import { open, seal } from '@sallyport/schema/platform';
import type { Runtime } from '../runtime/runtime.ts';

/** Longest id of a task that a client is given, in bytes: it comes back in a header. */
const taskTokenBytesMax = 2048;
const purpose = 'sallyport.task.v1';

/** For whom a task was made, and where. */
export interface TaskOwner {
  readonly principalId: string;
  readonly principalEpoch: number;
  readonly serverId: string;
}

/** A task as its client names it, and as the upstream does. */
export interface OpenedTask {
  readonly token: string;
  readonly taskId: string;
  /** The tool whose call made it: what its owner must still be allowed to use. */
  readonly tool: string;
}

const sealedFields = z.tuple([z.string(), z.string()]);

/**
 * The id of a task for its client: the upstream's, sealed with whom it is for and the tool it comes from. An upstream
 * may take a task id for proof enough (ext-tasks 2026-07-28), and the gateway calls it with one credential for all; so
 * only the id's own principal may bring it back. Does NOT authenticate: every request still needs its API key.
 * @throws AppError UPSTREAM_PROTOCOL where the upstream's id is too long to be sealed
 */
export function sealTask(runtime: Pick<Runtime, 'sealing'>, owner: TaskOwner, tool: string, taskId: string): string {
  const token = seal(runtime.sealing.seal, purposeFor(owner), JSON.stringify([tool, taskId]));
  if (token.length > taskTokenBytesMax) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'the id of a task is too long to be sealed' });
  }
  return token;
}

/** The task, or undefined: forged, changed, another principal's, another server's, from before a revocation. */
export function openTask(runtime: Pick<Runtime, 'sealing'>, owner: TaskOwner, token: string): OpenedTask | undefined {
  if (token.length > taskTokenBytesMax) return undefined;
  const plaintext = open(runtime.sealing.open, purposeFor(owner), token)?.toString('utf8');
  if (plaintext === undefined) return undefined;
  const [tool, taskId] = sealedFields.parse(JSON.parse(plaintext));
  return { token, taskId, tool };
}

function purposeFor({ principalId, principalEpoch, serverId }: TaskOwner): string {
  return JSON.stringify([purpose, principalId, principalEpoch, serverId]);
}
