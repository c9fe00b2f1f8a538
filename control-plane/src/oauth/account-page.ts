import { html, type Page, page, scopeText } from './pages.ts';

export interface AccountPage {
  readonly action: string;
  readonly csrf: string;
  readonly userName: string;
  readonly consents: readonly {
    readonly id: string;
    readonly clientName: string;
    readonly clientId: string;
    readonly redirectHost: string;
    readonly resource: string;
    readonly scopes: readonly string[];
    readonly isRemembered: boolean;
    readonly updatedAt: Date;
  }[];
  /** Of the page after this one. */
  readonly nextHref: string | undefined;
  /** Accounts at MCP servers that the user connected. */
  readonly accounts: readonly {
    readonly id: string;
    readonly title: string;
    readonly host: string;
    readonly issuer: string;
    readonly scopes: readonly string[];
    readonly isActive: boolean;
    readonly updatedAt: Date;
    /** Where it is connected again; null where it cannot be. */
    readonly connectHref: string | null;
  }[];
  readonly nextAccountsHref: string | undefined;
}

function accountSections({ action, csrf, accounts, nextAccountsHref }: AccountPage) {
  const items = accounts.map((one) => {
    const scopes = one.scopes.length === 0 ? 'what it allows by itself' : one.scopes.join(' ');
    const note = one.isActive ? [] : [html`<p class="problem">It has to be connected again before it can be used.</p>`];
    const again = one.connectHref === null ? [] : [html`<a class="button" href="${one.connectHref}">Connect again</a>`];
    return html`<section aria-labelledby="a-${one.id}">
<h3 id="a-${one.id}">${one.title}</h3>
${note}
<dl>
<dt>Server</dt><dd>${one.host}</dd>
<dt>Allowed at</dt><dd>${one.issuer}</dd>
<dt>Access</dt><dd>${scopes}</dd>
<dt>Renewed last</dt><dd>${one.updatedAt.toISOString().slice(0, 10)}</dd>
</dl>
<form method="post" action="${action}">
<input type="hidden" name="csrf" value="${csrf}">
${again}
<button type="submit" name="disconnect" value="${one.id}" aria-describedby="a-${one.id}">Disconnect</button>
</form>
</section>`;
  });
  const next =
    nextAccountsHref === undefined ? [] : [html`<p><a class="button" href="${nextAccountsHref}">More accounts</a></p>`];
  const empty = accounts.length === 0 ? [html`<p>You have connected no accounts.</p>`] : [];
  return html`<h2>Connected accounts</h2>
<p>The gateway calls these MCP servers in your name. Disconnecting ends that at once, for all clients.</p>
${empty}
${items}
${next}`;
}

/** What a user allowed, each with a button to withdraw it. */
export function accountPage(given: AccountPage): Page {
  const { action, csrf, userName, consents, nextHref } = given;
  const token = html`<input type="hidden" name="csrf" value="${csrf}">`;
  const items = consents.map((one) => {
    const note = one.isRemembered ? 'It is not asked again.' : 'It is asked each time it logs in.';
    const scopes = one.scopes.map((scope) => html`<li>${scopeText(scope)}</li>`);
    return html`<section aria-labelledby="c-${one.id}">
<h2 id="c-${one.id}">${one.clientName}</h2>
<dl>
<dt>Answer goes to</dt><dd>${one.redirectHost}</dd>
<dt>Identified by</dt><dd>${one.clientId}</dd>
<dt>Endpoint</dt><dd>${one.resource}</dd>
<dt>Allowed last</dt><dd>${one.updatedAt.toISOString().slice(0, 10)}</dd>
</dl>
<ul>${scopes}</ul>
<p class="note">${note}</p>
<form method="post" action="${action}">
${token}
<button type="submit" name="withdraw" value="${one.id}" aria-describedby="c-${one.id}">Withdraw</button>
</form>
</section>`;
  });
  const empty = consents.length === 0 ? [html`<p>You have allowed nothing.</p>`] : [];
  const next = nextHref === undefined ? [] : [html`<p><a class="button" href="${nextHref}">Next</a></p>`];
  return page(
    'What you allowed',
    html`<p>You are logged in as <strong>${userName}</strong>. Clients below act in your name.</p>
<p>Withdrawing ends everything that the client holds in your name, at every endpoint.</p>
${empty}
${items}
${next}
${accountSections(given)}
<form method="post" action="${action}">
${token}
<button type="submit" name="logout" value="yes">Log out</button>
</form>`,
  );
}
