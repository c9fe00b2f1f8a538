import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { NodeConfig } from '../config.ts';
import { setAsidePrefix } from '../telemetry/audit-spool.ts';

const nameLengthMax = 128;
const directoryName = /^worker-(\d+)$/;

/**
 * What one of several workers runs with: a node of its own, with its own identity, spool and last-known-good
 * configuration. The first one has the data directory itself, so that a node that ran alone before goes on as it.
 * @param worker from 1
 * @param port the one that all workers share
 */
export function workerConfig(config: NodeConfig, worker: number, port: number): NodeConfig {
  const suffix = `/${worker}`;
  const { peer } = config;
  return {
    ...config,
    worker,
    name: config.name.slice(0, nameLengthMax - suffix.length) + suffix,
    dataDirectory: workerDirectory(config.dataDirectory, worker),
    listen: { host: config.listen.host, port, shared: true },
    operations: { host: '127.0.0.1', port: 0 },
    peer: {
      host: peer.host,
      port: peer.port === 0 ? 0 : peer.port + worker - 1,
      url: peer.url === null ? null : shifted(peer.url, worker - 1),
    },
  };
}

/** A worker that is wanted no more: nobody calls it, it only brings home what its spool still holds. */
export function retiringConfig(config: NodeConfig, worker: number): NodeConfig {
  return { ...workerConfig(config, worker, 0), listen: { host: '127.0.0.1', port: 0, shared: false }, tls: undefined };
}

function workerDirectory(dataDirectory: string, worker: number): string {
  return worker === 1 ? dataDirectory : join(dataDirectory, `worker-${worker}`);
}

/** Workers beyond those that are wanted, of whom there is still something on the disk. */
export function retiredWorkers(config: NodeConfig): number[] {
  let names: string[];
  try {
    names = readdirSync(config.dataDirectory);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
  return names
    .map((name) => Number(directoryName.exec(name)?.[1]))
    .filter((worker) => worker > config.workers)
    .sort((a, b) => a - b);
}

/**
 * Removes what is on the disk of a worker whose spools are stored.
 * @returns false where it stays, since a part of a spool could not be read
 */
export function forgetWorker(dataDirectory: string, worker: number): boolean {
  const directory = workerDirectory(dataDirectory, worker);
  if (!existsSync(directory)) return true;
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' });
  if (names.some((name) => basename(name).startsWith(setAsidePrefix))) return false;
  rmSync(directory, { recursive: true, force: true });
  return true;
}

function shifted(peerUrl: string, by: number): string {
  const url = new URL(peerUrl);
  url.port = String(Number(url.port) + by);
  return url.href;
}
