import { spawn } from 'node:child_process';

/** The program that opens a page, by platform; the page is an argument of its own and passes no shell. */
const openers: Partial<Record<NodeJS.Platform, readonly [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['rundll32', 'url.dll,FileProtocolHandler'],
  linux: ['xdg-open'],
};

/** Opens a page in the person's browser, where there is one; that it cannot is no failure, since the page is printed. */
export function openBrowser(page: URL): void {
  const [program, ...first] = openers[process.platform] ?? [];
  if (program === undefined) return;
  const child = spawn(program, [...first, page.href], { stdio: 'ignore', detached: true });
  child.on('error', () => undefined);
  child.unref();
}
