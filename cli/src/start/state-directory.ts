import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { randomSecret } from '@sallyport/schema/platform';
import { z } from 'zod';
import { isAlive, startTimeOf } from './process-table.ts';

/** Where everything that `start` makes lies; deleting it is all that `reset` does. */
export interface StateDirectory {
  readonly root: string;
  readonly logs: string;
  readonly postgres: string;
  readonly secretsFile: string;
  /** The key that credentials toward upstreams are sealed with; a file of its own, as the control plane reads it. */
  readonly credentialKeyFile: string;
  readonly stateFile: string;
  readonly runFile: string;
}

export function stateDirectory(parent: string): StateDirectory {
  const root = join(resolve(parent), '.sallyport');
  return {
    root,
    logs: join(root, 'logs'),
    postgres: join(root, 'postgres'),
    secretsFile: join(root, 'secrets.json'),
    credentialKeyFile: join(root, 'credential-keys'),
    stateFile: join(root, 'state.json'),
    runFile: join(root, 'run.json'),
  };
}

/** Makes the directory, readable by its owner alone; root's may be passed through by the account of PostgreSQL. */
export function createStateDirectory(directory: StateDirectory): void {
  mkdirSync(directory.root, { recursive: true });
  chmodSync(directory.root, process.getuid?.() === 0 ? 0o711 : 0o700);
  mkdirSync(directory.logs, { recursive: true, mode: 0o700 });
}

const Secrets = z.strictObject({
  /** Seals what the control plane stores. */
  secretKey: z.string(),
  /** One per node: seals its last-known-good configuration, so it lies outside the node's data directory. */
  nodeSecrets: z.array(z.string()),
  queuePassword: z.string(),
});
export type Secrets = z.infer<typeof Secrets>;

/** The secrets made on the first start; lost ones cannot be made again, the data they seal is then unreadable. */
export function ensureSecrets(directory: StateDirectory, nodeCount: number): Secrets {
  if (existsSync(directory.secretsFile)) return readSecrets(directory);
  const secrets: Secrets = {
    secretKey: randomSecret('sk_'),
    nodeSecrets: Array.from({ length: nodeCount }, () => randomSecret('ns_')),
    queuePassword: randomSecret('pg_'),
  };
  writePrivateJson(directory.secretsFile, secrets);
  return secrets;
}

/** Makes the key that seals credentials toward upstreams, where there is none yet. */
export function ensureCredentialKey({ credentialKeyFile }: StateDirectory): void {
  if (existsSync(credentialKeyFile)) return;
  const partial = `${credentialKeyFile}.partial`;
  writeFileSync(partial, `start ${randomBytes(credentialKeyBytes).toString('base64')}\n`, { mode: 0o600 });
  renameSync(partial, credentialKeyFile);
}
const credentialKeyBytes = 32;

export function readSecrets(directory: StateDirectory): Secrets {
  return readJson(directory.secretsFile, Secrets);
}

const StoredKey = z.strictObject({ id: z.string(), secret: z.string(), expiresAt: z.string() });
export type StoredKey = z.infer<typeof StoredKey>;

const State = z.strictObject({
  /** The ports of the last start by use, taken again when free. */
  ports: z.record(z.string(), z.number()),
  /** Of the last start, for `admin`. */
  databaseUrl: z.string().optional(),
  /** Keys are shown once by the API, so `start` keeps the ones it prints again. */
  ownerKey: StoredKey.optional(),
  clientKey: StoredKey.optional(),
  /** For nodes that have no identity, or one that was removed from the fleet. */
  joinToken: StoredKey.optional(),
  /** Ids of the example servers by slug, once they were registered and granted: from then on they are the admin's. */
  exampleServers: z.record(z.string(), z.string()).optional(),
});
export type State = z.infer<typeof State>;

export function readState(directory: StateDirectory): State {
  return existsSync(directory.stateFile) ? readJson(directory.stateFile, State) : { ports: {} };
}

export function writeState(directory: StateDirectory, state: State): void {
  writePrivateJson(directory.stateFile, state);
}

const RunningProcess = z.strictObject({ name: z.string(), pid: z.number(), startTime: z.string() });
export type RunningProcess = z.infer<typeof RunningProcess>;
const Run = z.strictObject({ owner: RunningProcess, children: z.array(RunningProcess) });
type Run = z.infer<typeof Run>;

/** A process of that id alone proves nothing after a reboot or a wrap-around; its start time must be the same too. */
export function isStillRunning(running: RunningProcess): boolean {
  return isAlive(running.pid) && startTimeOf(running.pid) === running.startTime;
}

export function describeProcess(name: string, pid: number): RunningProcess {
  return { name, pid, startTime: startTimeOf(pid) ?? '' };
}

/** The `start` that runs in this directory now, if one does. */
export function runningOwner(directory: StateDirectory): RunningProcess | undefined {
  const run = readRun(directory);
  return run !== undefined && isStillRunning(run.owner) ? run.owner : undefined;
}

/**
 * Claims the directory for this process, atomically.
 * @returns the children that a killed owner left behind and that still run.
 * @throws Error when another `start` runs here.
 */
export function claimDirectory(directory: StateDirectory): readonly RunningProcess[] {
  const previous = readRun(directory);
  if (previous !== undefined && isStillRunning(previous.owner)) throw alreadyRunning(directory, previous.owner);
  rmSync(directory.runFile, { force: true });
  const claim = `${directory.runFile}.${process.pid}`;
  writePrivateJson(claim, { owner: describeProcess('sallyport', process.pid), children: [] } satisfies Run);
  try {
    linkSync(claim, directory.runFile);
  } catch (error) {
    const other = readRun(directory);
    throw other === undefined ? error : alreadyRunning(directory, other.owner);
  } finally {
    rmSync(claim);
  }
  return previous?.children.filter(isStillRunning) ?? [];
}

export function recordChildren(directory: StateDirectory, children: readonly RunningProcess[]): void {
  const run: Run = { owner: describeProcess('sallyport', process.pid), children: [...children] };
  writePrivateJson(directory.runFile, run);
}

export function releaseDirectory(directory: StateDirectory): void {
  rmSync(directory.runFile, { force: true });
}

function alreadyRunning(directory: StateDirectory, owner: RunningProcess): Error {
  return new Error(
    `Sallyport already runs in ${directory.root} (process ${owner.pid}). ` +
      'Stop it with Ctrl-C there, or pass --directory to run another one beside it.',
  );
}

function readRun(directory: StateDirectory): Run | undefined {
  if (!existsSync(directory.runFile)) return undefined;
  try {
    return Run.parse(JSON.parse(readFileSync(directory.runFile, 'utf8')));
  } catch {
    // Cut by a power loss: it names nobody.
    return undefined;
  }
}

function readJson<T>(file: string, schema: z.ZodType<T>): T {
  try {
    return schema.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (cause) {
    throw new Error(`${file} cannot be read. Mend it, or start over with "npx pnpm@12 sallyport reset".`, { cause });
  }
}

/** Written beside and renamed, so a killed process leaves the old file or the new one, never half of one. */
function writePrivateJson(file: string, value: unknown): void {
  const partial = `${file}.partial`;
  writeFileSync(partial, `${JSON.stringify(value, undefined, 2)}\n`, { mode: 0o600 });
  renameSync(partial, file);
}
