import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { freePort } from '@sallyport/cli';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import {
  createClient,
  createUser,
  loginCode,
  type OAuthPlane,
  resource,
  startOAuthPlane,
  submit,
} from './oauth-kit.ts';

const suite = createRequire(import.meta.url).resolve('@modelcontextprotocol/conformance/dist/index.js');
const suiteTimeoutMs = 60_000;

let plane: OAuthPlane;
beforeAll(async () => {
  plane = await startOAuthPlane();
});
afterAll(() => plane.stop());

/** Runs the suite; `onUrl` is given the address that a person is asked to open. */
function runSuite(parameters: readonly string[], onUrl: (url: URL) => Promise<void>): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [suite, 'authorization', ...parameters], { timeout: suiteTimeoutMs });
    let output = '';
    let opened = false;
    const collect = (chunk: Buffer): void => {
      output += chunk.toString();
      const url = /^(http\S+\/oauth\/authorize\?\S+)\n/m.exec(output)?.[1];
      if (url === undefined || opened) return;
      opened = true;
      onUrl(new URL(url)).catch(reject);
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.once('error', reject);
    child.once('close', () => resolve(output));
  });
}

/** Logs in, allows, and lets the browser go to the suite's own address. */
async function person(url: URL, userId: string): Promise<void> {
  const browser = new Browser();
  const login = await browser.follow(url);
  const consent = await submit(browser, login, { code: await loginCode(plane, userId) });
  const { location } = await submit(browser, consent, { decision: 'allow' });
  if (location === null) throw new Error(consent.text);
  await fetch(location);
}

/** As a public client: the suite sends no secret to a server that has such clients, whatever it was given. */
test('the official suite passes both authorization scenarios', async () => {
  const port = await freePort();
  const redirectUris = [`http://127.0.0.1:${port}/callback`];
  const { id } = await createClient(plane, { redirectUris });
  const user = await createUser(plane, 'Ada');
  const parameters = ['--url', plane.issuer, '--client-id', id, '--resource', resource, '--port', String(port)];
  const output = await runSuite(parameters, (url) => person(url, user));
  expect(output).toContain('authorization-server-metadata-endpoint: 2 passed, 0 failed');
  expect(output).toContain('authorization-code-grant: 1 passed, 0 failed');
});
