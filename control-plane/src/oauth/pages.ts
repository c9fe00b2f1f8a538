import { createHash } from 'node:crypto';

/** A page and the headers it must be served with. */
export interface Page {
  readonly html: string;
  readonly headers: Readonly<Record<string, string>>;
}

const style = `
:root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}
body{margin:0;padding:1.5rem}
main{max-width:34rem;margin:2rem auto}
h1{font-size:1.5rem;line-height:1.25}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
label{display:block;font-weight:600;margin-top:1rem}
input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;border:1px solid;border-radius:.375rem}
button,.button{display:inline-block;font:inherit;font-weight:600;padding:.5rem 1rem;margin:1rem .5rem 0 0;border:1px solid;
border-radius:.375rem;background:Canvas;color:CanvasText;text-decoration:none;cursor:pointer}
button.first{background:#0b5cad;border-color:#0b5cad;color:#fff}
:focus-visible{outline:3px solid #f5a623;outline-offset:2px}
.problem{border-left:.25rem solid #c62828;padding-left:.75rem}
.note{font-size:.9rem}
`;
const styleHash = createHash('sha256').update(style).digest('base64');

/** Values in templates are text and are escaped; only what `html` made goes in as it is. */
class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}
type Value = string | Markup | readonly Markup[];

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function markupOf(value: Value): string {
  if (value instanceof Markup) return value.text;
  if (typeof value !== 'string') return value.map(({ text }) => text).join('');
  return value.replace(/[&<>"']/g, (character) => entities[character] ?? '');
}

export function html(parts: TemplateStringsArray, ...values: readonly Value[]): Markup {
  return new Markup(String.raw({ raw: parts }, ...values.map(markupOf)));
}

/**
 * @param formTargets where a form of the page may lead, by way of redirects too, besides this host
 */
export function page(title: string, body: Markup, formTargets: readonly string[] = []): Page {
  const document = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} – Sallyport</title>
<style>${new Markup(style)}</style>
</head>
<body>
<main>
<h1>${title}</h1>
${body}
</main>
</body>
</html>
`;
  const policy = [
    "default-src 'none'",
    `style-src 'sha256-${styleHash}'`,
    `form-action ${["'self'", ...formTargets].join(' ')}`,
    "frame-ancestors 'none'",
    "base-uri 'none'",
  ];
  return {
    html: document.text,
    headers: {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy.join('; '),
      'x-frame-options': 'DENY',
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'same-origin',
      'cross-origin-opener-policy': 'same-origin',
      'cache-control': 'no-store',
    },
  };
}

/** A host or scheme as a source of a Content-Security-Policy; nothing where it cannot be said safely. */
function sourceOf(uri: string): readonly string[] {
  const url = URL.parse(uri);
  if (url === null) return [];
  const source = url.protocol === 'https:' || url.protocol === 'http:' ? url.origin : url.protocol;
  return /^[A-Za-z0-9+.:/[\]-]+$/.test(source) ? [source] : [];
}

export interface LoginPage {
  readonly action: string;
  readonly csrf: string;
  /** Of the client, as it calls itself. */
  readonly clientName: string;
  readonly redirectHost: string;
  readonly redirectUri: string;
  /** For the user's own page, and no client. */
  readonly isOwnPage: boolean;
  readonly providers: readonly { readonly name: string; readonly href: string }[];
  readonly problem?: string | undefined;
}

export function loginPage(given: LoginPage): Page {
  const problem = given.problem === undefined ? [] : [html`<p class="problem" role="alert">${given.problem}</p>`];
  const providers = given.providers.map(
    ({ name, href }) => html`<p><a class="button" href="${href}">Log in with ${name}</a></p>`,
  );
  const purpose = given.isOwnPage
    ? html`To see what you allowed clients to do in your name, and to withdraw it.`
    : html`<strong>${given.clientName}</strong> (answers go to <strong>${given.redirectHost}</strong>) asks to use tools in your name.`;
  return page(
    'Log in',
    html`${problem}
<p>${purpose}</p>
${providers}
<form method="post" action="${given.action}">
<input type="hidden" name="csrf" value="${given.csrf}">
<label for="code">Login code</label>
<input id="code" name="code" type="password" autocomplete="one-time-code" required maxlength="128" aria-describedby="code-note">
<p class="note" id="code-note">An administrator gives you one; it works once.</p>
<button type="submit" class="first">Log in with the code</button>
</form>`,
    sourceOf(given.redirectUri),
  );
}

export interface ConsentPage {
  readonly action: string;
  readonly csrf: string;
  readonly userName: string;
  readonly clientName: string;
  readonly clientId: string;
  readonly redirectUri: string;
  readonly redirectHost: string;
  readonly resource: string;
  readonly scopes: readonly string[];
  /** Whether it will not be asked again. */
  readonly isRemembered: boolean;
  /** Where users see and withdraw what they allowed. */
  readonly accountHref: string;
}

const scopeTexts: Readonly<Record<string, string>> = {
  mcp: 'Use everything you may use there: tools, prompts and resources',
  'mcp:tools': 'Use the tools you may use there',
  'mcp:prompts': 'Use the prompts you may use there',
  'mcp:resources': 'Read the resources you may read there',
  offline_access: 'Stay connected while you are away',
};

export function scopeText(scope: string): string {
  return scopeTexts[scope] ?? scope;
}

export function consentPage(given: ConsentPage): Page {
  const scopes = given.scopes.map((scope) => html`<li>${scopeText(scope)}</li>`);
  const note = given.isRemembered
    ? 'You will not be asked again for this client, address and access.'
    : 'You are asked each time, since any program on your machine could answer at that address.';
  return page(
    'Allow access?',
    html`<p>You are logged in as <strong>${given.userName}</strong>.</p>
<p>Go on only if you have just started this yourself and know where the answer goes.</p>
<dl>
<dt>Answer goes to</dt><dd><strong>${given.redirectHost}</strong></dd>
<dt>Client</dt><dd>${given.clientName} <span class="note">(this is what it calls itself)</span></dd>
<dt>Identified by</dt><dd>${given.clientId}</dd>
<dt>Endpoint</dt><dd>${given.resource}</dd>
</dl>
<p>It asks to:</p>
<ul>${scopes}</ul>
<form method="post" action="${given.action}">
<input type="hidden" name="csrf" value="${given.csrf}">
<button type="submit" name="decision" value="allow" class="first">Allow</button>
<button type="submit" name="decision" value="deny">Deny</button>
<button type="submit" name="decision" value="switch">Log in as someone else</button>
</form>
<p class="note">${note} You can <a href="${given.accountHref}">see and withdraw</a> it at any time.</p>`,
    sourceOf(given.redirectUri),
  );
}

export interface AccountsDuePage {
  readonly action: string;
  readonly csrf: string;
  readonly userName: string;
  readonly servers: readonly { readonly id: string; readonly title: string; readonly host: string }[];
  readonly redirectUri: string;
}

/** Accounts that an administrator wants connected at login, each with a button; they may be put off. */
export function accountsDuePage({ action, csrf, userName, servers, redirectUri }: AccountsDuePage): Page {
  const token = html`<input type="hidden" name="csrf" value="${csrf}">`;
  const items = servers.map(
    ({ id, title, host }) => html`<section aria-labelledby="s-${id}">
<h2 id="s-${id}">${title}</h2>
<p>You will be sent to the authorization server that <strong>${host}</strong> names, to allow it there.</p>
<form method="post" action="${action}">
${token}
<button class="first" type="submit" name="connect" value="${id}" aria-describedby="s-${id}">Connect</button>
</form>
</section>`,
  );
  return page(
    'Connect your accounts',
    html`<p>You are logged in as <strong>${userName}</strong>.</p>
<p>These MCP servers are called in your name, with your own account there. Connect them now, or when you first need them.</p>
${items}
<form method="post" action="${action}">
${token}
<button type="submit" name="later" value="yes">Go on without</button>
</form>`,
    // To authorization servers, and to where the client is answered.
    ['https:', 'http:', ...sourceOf(redirectUri)],
  );
}

/** @param code of RFC 6749 or of ours; @param description is shown as text, whoever wrote it */
export function errorPage(code: string, description?: string, backHref: string | null = null): Page {
  const onward =
    backHref === null
      ? html`<p>Go back to your client and start again. If it happens again, tell your administrator this: <code>${code}</code></p>`
      : html`<p><a class="button" href="${backHref}">Back</a></p>`;
  return page(
    'This did not work',
    html`<p class="problem" role="alert">${description ?? 'The request could not be served.'}</p>
${onward}`,
  );
}
