import { type Browser, chromium, type Page } from 'playwright-core';
import { findBinary } from './binaries.ts';

const pageTimeoutMs = 30_000;

/** Someone at a browser: opens the page that a client names, logs in, and clicks. */
export class Person {
  readonly #browser: Browser;

  constructor(browser: Browser) {
    this.#browser = browser;
  }

  static async start(): Promise<Person> {
    const executablePath = findBinary('chromium');
    if (executablePath === undefined) throw new Error('chromium is missing');
    return new Person(await chromium.launch({ executablePath, args: ['--no-sandbox'] }));
  }

  /**
   * Logs in with a code where asked, and presses `decision` where asked, in a browser without a past.
   * @returns the address at which it ends, and what stood on the page of consent
   */
  async logIn(
    page: string | URL,
    code: string,
    decision: 'Allow' | 'Deny' = 'Allow',
  ): Promise<{ readonly endedAt: URL; readonly consent: string }> {
    const context = await this.#browser.newContext();
    try {
      const tab = await context.newPage();
      tab.setDefaultTimeout(pageTimeoutMs);
      await tab.goto(String(page));
      await tab.getByLabel('Login code').fill(code);
      await tab.getByRole('button', { name: 'Log in with the code' }).click();
      await tab.getByRole('heading', { name: 'Allow access?' }).waitFor();
      const consent = await tab.getByRole('main').innerText();
      return { consent, endedAt: await this.#decide(tab, decision) };
    } finally {
      await context.close();
    }
  }

  async #decide(tab: Page, decision: string): Promise<URL> {
    const back = tab.waitForURL((url) => url.searchParams.has('code') || url.searchParams.has('error'));
    await tab.getByRole('button', { name: decision, exact: true }).click();
    await back;
    return new URL(tab.url());
  }

  close(): Promise<void> {
    return this.#browser.close();
  }
}
