import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { z } from 'zod';
import type { Administrator } from '../kit/administrator.ts';

const directories: string[] = [];
afterAll(() => {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

export function temporaryFile(name: string, text: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-credentials-'));
  directories.push(directory);
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

export function keyLine(id: string): string {
  return `${id} ${randomBytes(32).toString('base64')}\n`;
}

/** A file with one key that seals. */
export function keyFile(): string {
  return temporaryFile('keys', keyLine('first'));
}

export const identified = z.object({ id: z.string() });
export const credential = z.object({ mode: z.string(), isComplete: z.boolean(), revision: z.number() });
export const credentialFields = 'mode isComplete revision';

/** A service credential, in a header. */
export const withHeader = (value: string) => ({ staticHeaders: { headers: [{ name: 'X-Service-Key', value }] } });

/**
 * Registers a server with a credential, if any, has it discovered by it, and puts it into service.
 * @param ready has the administrator do what the credential wants of him before it can be used
 */
export async function registerWith(
  administrator: Administrator,
  server: Readonly<Record<string, unknown>> & { readonly slug: string; readonly url: string },
  mode: Readonly<Record<string, unknown>> | null,
  ready: (serverId: string) => Promise<unknown> = () => Promise.resolve(),
): Promise<string> {
  const { id } = await administrator.mutate('createServer', server, 'id', identified);
  if (mode !== null) {
    await administrator.mutate('setServerCredential', { serverId: id, ...mode }, credentialFields, credential);
  }
  await ready(id);
  const discover =
    'mutation ($input: ServerInput!) { discoverServer(input: $input) { discoveryProblem { code message } } }';
  const answer = z.object({ discoverServer: z.object({ discoveryProblem: z.unknown() }) });
  const { discoverServer } = await administrator.api.ask(discover, { input: { id } }, answer);
  if (discoverServer.discoveryProblem !== null) throw new Error(JSON.stringify(discoverServer.discoveryProblem));
  await administrator.mutate('approveServer', { id }, 'id', identified);
  return id;
}

/** What the files of a directory hold, each as text. */
export function filesUnder(directory: string): string[] {
  return readdirSync(directory).flatMap((name) => {
    const path = join(directory, name);
    return statSync(path).isDirectory() ? filesUnder(path) : [readFileSync(path, 'latin1')];
  });
}
