import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';

const suite = createRequire(import.meta.url).resolve('@modelcontextprotocol/conformance/dist/index.js');
const suiteTimeoutMs = 120_000;
/** For one client of one scenario. */
const clientTimeoutMs = 60_000;

export type SuiteRevision = '2025-11-25' | '2026-07-28';

/** One observed check, without what differs between two equal runs (times, ids, details). */
export interface Check {
  readonly id: string;
  readonly name: string;
  readonly status: string;
  readonly problem: string | undefined;
}

/** Checks by scenario, in the order they were made. */
export type SuiteResult = ReadonlyMap<string, readonly Check[]>;

const checksSchema = z.array(
  z.looseObject({ id: z.string(), name: z.string(), status: z.string(), errorMessage: z.string().optional() }),
);

/** The scenarios that count toward conformance with a revision, as the suite's frozen list has them. */
export function scoredScenarios(revision: SuiteRevision, leg: 'client' | 'server' = 'server'): readonly string[] {
  const file = join(suite, `../../requirements/${revision}.yaml`);
  const section = new RegExp(`^${leg}:\\n((?: {2}- .*\\n)+)`, 'm').exec(readFileSync(file, 'utf8'))?.[1] ?? '';
  return section.split('\n').flatMap((line) => line.match(/^ {2}- ([\w/-]+)/)?.[1] ?? []);
}

function run(parameters: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [suite, ...parameters], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: suiteTimeoutMs,
    });
    let output = '';
    const collect = (chunk: Buffer): void => {
      output += chunk.toString();
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('error', reject);
    child.once('close', () => resolve(output));
  });
}

function readResults(folder: string): SuiteResult {
  const results = new Map<string, readonly Check[]>();
  for (const entry of readdirSync(folder).sort()) {
    const scenario = /^(?:server-)?(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$/.exec(entry)?.[1];
    if (scenario === undefined) continue;
    const checks = checksSchema.parse(JSON.parse(readFileSync(join(folder, entry, 'checks.json'), 'utf8')));
    results.set(
      scenario,
      checks.map(({ id, name, status, errorMessage }) => ({ id, name, status, problem: errorMessage })),
    );
  }
  return results;
}

/**
 * Runs the official suite as a program against a server. Its files stay in a folder of the temporary directory named
 * after `label` until the next run, so that a failure can be looked at.
 * @param scenario one scenario; default: all that the suite runs for the revision, scored or not
 */
export async function runSuite(options: {
  readonly url: string;
  readonly revision: SuiteRevision;
  readonly label: string;
  readonly scenario?: string;
}): Promise<SuiteResult> {
  const folder = join(tmpdir(), 'sallyport-conformance', `${options.label}-${options.scenario ?? options.revision}`);
  rmSync(folder, { recursive: true, force: true });
  const selection =
    options.scenario === undefined
      ? ['--requirements', options.revision]
      : ['--scenario', options.scenario, '--spec-version', options.revision];
  return resultsOf(folder, await run(['server', '--url', options.url, ...selection, '-o', folder]));
}

/**
 * Runs one client scenario of the suite: it starts a server of `revision`, then `command` in a shell with the server's URL
 * as the last argument, and judges what the server saw.
 */
export async function runClientScenario(options: {
  readonly command: string;
  readonly scenario: string;
  readonly revision: SuiteRevision;
  readonly label: string;
}): Promise<readonly Check[]> {
  const { command, scenario, revision, label } = options;
  const folder = join(tmpdir(), 'sallyport-conformance', label, `${scenario}-${revision}`);
  rmSync(folder, { recursive: true, force: true });
  const selection = ['--scenario', scenario, '--spec-version', revision, '--timeout', String(clientTimeoutMs)];
  const output = await run(['client', '--command', command, ...selection, '-o', folder]);
  // A scenario of a group lies in a folder of the group.
  return resultsOf(join(folder, dirname(scenario)), output).get(basename(scenario)) ?? [];
}

function resultsOf(folder: string, output: string): SuiteResult {
  try {
    return readResults(folder);
  } catch (cause) {
    throw new Error(`the conformance suite left no results; it said:\n${output.slice(-2000)}`, { cause });
  }
}

export function failedChecks(checks: readonly Check[]): readonly Check[] {
  return checks.filter(({ status }) => status === 'FAILURE' || status === 'WARNING');
}
