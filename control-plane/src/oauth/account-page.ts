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
}

/** What a user allowed, each with a button to withdraw it. */
export function accountPage({ action, csrf, userName, consents, nextHref }: AccountPage): Page {
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
<form method="post" action="${action}">
${token}
<button type="submit" name="logout" value="yes">Log out</button>
</form>`,
  );
}
