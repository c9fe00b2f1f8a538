/**
 * The real `terraform` with the provider as it stands in `terraform/`, each workspace in a folder of its own. The
 * provider is built once for a test file; Go's build cache makes that quick when nothing changed.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { repositoryRoot } from '../contract/generated-files.ts';
import { findBinary, hasBinary } from './binaries.ts';
import { testConfig } from './config.ts';
import type { Harness } from './harness.ts';

export interface Ran {
  readonly code: number;
  /** Standard output and error, in the order they came. */
  readonly output: string;
}

const runTimeoutMs = 300_000;

/** Runs a program to its end; whatever its exit code, that is no error. */
export function run(
  program: string,
  parameters: readonly string[],
  options: { readonly cwd: string; readonly env?: Readonly<Record<string, string>> },
): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const env = { PATH: testConfig.path, HOME: homedir(), ...options.env };
    const child = spawn(program, parameters, {
      cwd: options.cwd,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: runTimeoutMs,
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output += chunk.toString();
      });
    }
    child.once('error', reject);
    child.once('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

export const terraformFolder = join(repositoryRoot(), 'terraform');

/** Whether Go and Terraform are here; says what is skipped where they are not. */
export function hasTerraform(what: string): boolean {
  return hasBinary('go', 'golang-go', what) && hasBinary('terraform', "terraform, from HashiCorp's repository", what);
}

export interface Provider {
  readonly folder: string;
  remove(): void;
}

export async function buildProvider(): Promise<Provider> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-terraform-'));
  const program = join(folder, 'terraform-provider-sallyport');
  const built = await run(findBinary('go') ?? 'go', ['build', '-o', program, '.'], { cwd: terraformFolder });
  if (built.code !== 0) throw new Error(`the provider does not build:\n${built.output}`);
  const overrides = `dev_overrides { "sallyport/sallyport" = ${JSON.stringify(folder)} }`;
  writeFileSync(join(folder, 'terraform.rc'), `provider_installation {\n  ${overrides}\n  direct {}\n}\n`);
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

const requirement = 'terraform {\n  required_providers {\n    sallyport = { source = "sallyport/sallyport" }\n  }\n}\n';

/** Commands of two words, which take no colors. */
const plainCommands: ReadonlySet<string> = new Set(['state', 'providers']);

/** One configuration with its state. */
export class Workspace {
  readonly folder: string;
  private readonly environment: Readonly<Record<string, string>>;

  constructor(provider: Provider, settings: { readonly endpoint: string; readonly apiKey: string }) {
    this.folder = mkdtempSync(join(provider.folder, 'workspace-'));
    this.environment = {
      TF_CLI_CONFIG_FILE: join(provider.folder, 'terraform.rc'),
      TF_IN_AUTOMATION: '1',
      CHECKPOINT_DISABLE: '1',
      SALLYPORT_ENDPOINT: settings.endpoint,
      SALLYPORT_API_KEY: settings.apiKey,
    };
    this.write({ 'requirement.tf': requirement });
  }

  write(files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) {
      const file = join(this.folder, name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, text);
    }
  }

  terraform(
    command: string,
    parameters: readonly string[] = [],
    env: Readonly<Record<string, string>> = {},
  ): Promise<Ran> {
    const program = findBinary('terraform') ?? 'terraform';
    const colors = plainCommands.has(command) ? [] : ['-no-color'];
    return run(program, [command, ...colors, ...parameters], {
      cwd: this.folder,
      env: { ...this.environment, ...env },
    });
  }

  /** Code 0: no difference; 1: refused; 2: there is a difference. */
  plan(...parameters: readonly string[]): Promise<Ran> {
    return this.terraform('plan', ['-input=false', '-detailed-exitcode', ...parameters]);
  }

  async apply(...parameters: readonly string[]): Promise<string> {
    return this.succeed('apply', ['-auto-approve', '-input=false', ...parameters]);
  }

  async destroy(...parameters: readonly string[]): Promise<string> {
    return this.succeed('destroy', ['-auto-approve', '-input=false', ...parameters]);
  }

  /** Runs a command that must succeed, and returns what it printed. */
  async succeed(command: string, parameters: readonly string[]): Promise<string> {
    const ran = await this.terraform(command, parameters);
    if (ran.code !== 0) throw new Error(`terraform ${command} failed:\n${ran.output}`);
    return ran.output;
  }
}

/** A workspace for the API of a harness, with these files. */
export function workspaceFor(
  { controlPlane, ownerKey }: Harness,
  provider: Provider,
  files: Readonly<Record<string, string>> = {},
  apiKey = ownerKey,
): Workspace {
  const workspace = new Workspace(provider, { endpoint: controlPlane.graphqlUrl ?? '', apiKey });
  workspace.write(files);
  return workspace;
}
