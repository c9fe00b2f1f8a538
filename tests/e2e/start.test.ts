import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { hasBinary } from '../kit/binaries.ts';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';
import { askGraphql } from '../kit/control-plane.ts';

const repository = join(import.meta.dirname, '../..');
/** The built program, as a newcomer runs it. */
const program = join(repository, 'cli/dist/main.js');
const startDeadlineMs = 120_000;
const stopDeadlineMs = 60_000;
const commandDeadlineMs = 30_000;
/** On an idle machine it is about four; the rest is for a busy one. */
const secondStartMsMax = 20_000;

interface Started {
  readonly process: ChildProcess;
  readonly output: () => string;
  readonly durationMs: number;
}

const Run = z.object({ owner: z.object({ pid: z.number() }), children: z.array(z.object({ pid: z.number() })) });
const State = z.looseObject({ clientKey: z.object({ id: z.string(), secret: z.string(), expiresAt: z.string() }) });

let directory = '';
const living: ChildProcess[] = [];

beforeAll(() => {
  directory = temporaryDirectory();
});
afterAll(async () => {
  for (const child of living) child.kill('SIGTERM');
  await Promise.all(living.map((child) => exitOf(child)));
  rmSync(directory, { recursive: true, force: true });
});

function temporaryDirectory(): string {
  const made = mkdtempSync(join(tmpdir(), 'sallyport-start-'));
  // Under root the database runs under another account, which must be able to pass through.
  chmodSync(made, 0o755);
  return made;
}

function sallyport(...commandArguments: readonly string[]): { status: number | null; output: string } {
  const options = { encoding: 'utf8', timeout: commandDeadlineMs } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...commandArguments], options);
  return { status, output: stdout + stderr };
}

async function start(...options: readonly string[]): Promise<Started> {
  const startedAt = performance.now();
  const child = spawn(process.execPath, [program, 'start', '--directory', directory, ...options], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  living.push(child);
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const isUp = () => output.includes('Stop: Ctrl-C');
  const ended = () => child.exitCode !== null || child.signalCode !== null;
  await waitFor('the report of start', () => isUp() || ended(), { deadlineMs: startDeadlineMs }).catch(() => undefined);
  if (!isUp()) throw new Error(`start printed no report, but:\n${output}`);
  return { process: child, output: () => output, durationMs: performance.now() - startedAt };
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) {
    await waitFor('the end of start', () => child.exitCode !== null || child.signalCode !== null, {
      deadlineMs: stopDeadlineMs,
    });
  }
  return child.exitCode;
}

/** Process ids of everything that belongs to the running start, the database included. */
function pidsOf(): readonly number[] {
  const run = Run.parse(JSON.parse(readFileSync(join(directory, '.sallyport/run.json'), 'utf8')));
  const postmaster = readFileSync(join(directory, '.sallyport/postgres/data/postmaster.pid'), 'utf8').split('\n')[0];
  return [...run.children.map(({ pid }) => pid), Number(postmaster)];
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // A killed child whose parent is gone stays a zombie where nobody reaps it, as in a bare container.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ENOENT' && process.platform !== 'linux';
  }
}

/** The blocks of shell lines exactly as printed, by title. */
function shellBlocks(output: string): readonly { readonly title: string; readonly lines: string }[] {
  const printed = output.slice(0, output.indexOf('# End of shell lines')).split(/^# Shell: /m);
  return printed.slice(1).map((block) => {
    const [title = '', ...lines] = block.split('\n');
    return { title, lines: lines.join('\n') };
  });
}

function keyIn(output: string): string | undefined {
  return /API key of the example client\n\s+(\S+)/.exec(output)?.[1];
}

const hasCurl = hasBinary('curl', 'curl', 'running the shell lines that start prints');

/** Runs what was printed for each server and expects the tools' own answers. */
function expectShellLinesToCallTools(output: string): void {
  if (!hasCurl) return;
  const answers = shellBlocks(output).map(({ title, lines }) => {
    const { stdout, stderr } = spawnSync('sh', ['-c', lines], { encoding: 'utf8' });
    return { title, answer: stdout + stderr };
  });
  expect(answers).toHaveLength(2);
  expect(answers.filter(({ answer }) => !answer.includes('"content"') || answer.includes('"error"'))).toEqual([]);
  expect(answers.map(({ answer }) => answer).join('\n')).toMatch(/42\.19/);
  expect(answers.map(({ answer }) => answer).join('\n')).toMatch(/Echo: /);
}

/** The code blocks of one language in a section of the README, from its heading to the next. */
function readmeBlocks(heading: string, language: string): readonly string[] {
  const readme = readFileSync(join(repository, 'README.md'), 'utf8');
  const section = readme.slice(readme.indexOf(`## ${heading}`)).split('\n## ')[0] ?? '';
  const blocks = section.matchAll(new RegExp(`^\`\`\`${language}\n([^]*?)^\`\`\``, 'gm'));
  return [...blocks].map(([, text = '']) => text);
}

/** The README's Inspector lines, word for word; `npx pnpm@12 --filter … exec` is played by its search path alone. */
function inspectorAnswers(url: string, key: string): string {
  const lines = readmeBlocks('First steps with three clients', 'sh').join('\n');
  const options = {
    encoding: 'utf8',
    env: {
      PATH: `${join(repository, 'tests/node_modules/.bin')}:${dirname(process.execPath)}:${testConfig.path}`,
      HOME: directory,
      URL: url,
      KEY: key,
    },
  } as const;
  const { stdout, stderr } = spawnSync('sh', ['-c', `set -e\nnpx() { shift 4; "$@"; }\n${lines}`], options);
  return stdout + stderr;
}

// One story in order: each part begins where the one before ended.
describe('start', { timeout: startDeadlineMs + stopDeadlineMs }, () => {
  let running: Started;
  let firstKey: string | undefined;

  test('a first start ends in a report whose shell lines call a tool as pasted', async () => {
    running = await start();
    const output = running.output();
    process.stdout.write(`first start: ${Math.round(running.durationMs)} ms\n`);
    for (const title of ['MCP endpoints', 'mcpServers', 'GraphQL API', 'Admin token']) expect(output).toContain(title);
    firstKey = keyIn(output);
    expect(firstKey).toMatch(/^sp_/);
    expectShellLinesToCallTools(output);
  });

  test('a second start beside it and a reset are refused with the reason', () => {
    for (const command of ['start', 'reset'] as const) {
      const { status, output } = sallyport(
        command,
        '--directory',
        directory,
        ...(command === 'reset' ? ['--yes'] : []),
      );
      expect(status).toBe(1);
      expect(output).toContain(`already runs in ${join(directory, '.sallyport')}`);
    }
  });

  test('after a kill -9 nothing is left running, and the next start has the same data', async () => {
    const pids = pidsOf();
    expect(pids.length).toBeGreaterThanOrEqual(6);
    running.process.kill('SIGKILL');
    await exitOf(running.process);
    running = await start();
    expect(pids.filter(isAlive)).toEqual([]);
    expect(keyIn(running.output())).toBe(firstKey);
    expectShellLinesToCallTools(running.output());
  });

  test('Ctrl-C ends every child', async () => {
    const pids = pidsOf();
    running.process.kill('SIGINT');
    expect(await exitOf(running.process)).toBe(0);
    expect(pids.filter(isAlive)).toEqual([]);
    expect(existsSync(join(directory, '.sallyport/run.json'))).toBe(false);
  });

  test('a busy port that was asked for is named, and another way is shown', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? String(address.port) : '';
    const child = spawn(process.execPath, [program, 'start', '--directory', directory, '--port', port]);
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
    expect(await exitOf(child)).toBe(1);
    await new Promise((resolve) => server.close(resolve));
    expect(output).toContain(`Port ${port} is used by another program`);
  });

  test('a later start takes seconds, and prints the successor of a key that nears its expiry', async () => {
    const file = join(directory, '.sallyport/state.json');
    const state = State.parse(JSON.parse(readFileSync(file, 'utf8')));
    const soon = new Date(Date.now() + 3_600_000).toISOString();
    writeFileSync(file, JSON.stringify({ ...state, clientKey: { ...state.clientKey, expiresAt: soon } }));
    running = await start();
    process.stdout.write(`later start: ${Math.round(running.durationMs)} ms\n`);
    expect(running.durationMs).toBeLessThan(secondStartMsMax);
    expect(running.output()).toContain('successor');
    expect(keyIn(running.output())).not.toBe(firstKey);
    expectShellLinesToCallTools(running.output());
  });

  test('the lines and documents of the README work on it as printed', async () => {
    const output = running.output();
    const key = keyIn(output) ?? '';
    const url = /http:\/\/127\.0\.0\.1:\d+\/mcp\/everything/.exec(output)?.[0] ?? '';
    const answers = inspectorAnswers(url, key);
    expect(answers).toContain('"get-sum"');
    expect(answers).toContain('Echo: hello');
    const graphqlUrl = /GraphQL API\n\s+(\S+)/.exec(output)?.[1] ?? '';
    const token = /Admin token[^\n]*\n\s+(\S+)/.exec(output)?.[1] ?? '';
    const [events = '', change = ''] = readmeBlocks('First steps with three clients', 'graphql');
    const ask = (query: string, operationName?: string) => askGraphql(graphqlUrl, query, {}, token, operationName);
    const seen = await waitFor('the calls are recorded', async () => {
      const { data } = await ask(events);
      return data.auditEvents.edges.length === 5 && data.auditEvents.edges;
    });
    expect(seen[0].node).toMatchObject({ outcome: 'SUCCESS', decision: { effect: 'ALLOW' } });
    const { data } = await ask(change, 'Grants');
    const grants: { node: { id: string; name: string } }[] = data.grants.edges;
    const everything = grants.find(({ node }) => node.name.includes('Everything'))?.node.id ?? '';
    expect(await ask(change.replace('…', everything), 'End')).toMatchObject({ errors: [] });
    await waitFor('both nodes have it', async () => {
      const live = await ask(change, 'Live');
      return live.data.configStatus.nodesLive === 2 && live.data.configStatus.nodesTotal === 2;
    });
    expect(inspectorAnswers(url, key)).not.toContain('Echo: hello');
    running.process.kill('SIGTERM');
    expect(await exitOf(running.process)).toBe(0);
  });

  test('reset deletes everything', () => {
    expect(sallyport('reset', '--yes', '--directory', directory)).toMatchObject({ status: 0 });
    expect(existsSync(join(directory, '.sallyport'))).toBe(false);
  });
});

test('help, version and mistakes are answered without starting anything', () => {
  expect(sallyport('--help')).toMatchObject({ status: 0, output: expect.stringContaining('start') });
  for (const command of ['start', 'reset', 'admin', 'audit']) {
    const help = sallyport(command, '--help');
    expect(help.status).toBe(0);
    expect(help.output).toContain(`Usage: `);
  }
  expect(sallyport('--version')).toMatchObject({ status: 0, output: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
  expect(sallyport('stat')).toMatchObject({ status: 2, output: expect.stringContaining('no command "stat"') });
  expect(sallyport('start', '--prot', '1')).toMatchObject({ status: 2, output: expect.stringContaining("'--prot'") });
  expect(sallyport('start', '--port', 'x')).toMatchObject({ status: 2, output: expect.stringContaining('--port') });
});
