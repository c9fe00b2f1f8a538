import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock, Log } from '@sallyport/schema/platform';
import { type InteractionResults, type Provider } from 'oidc-provider';
import { nameLengthMax } from '../database/violations.ts';
import { oauthRoutes, type StepUpNeeds } from '@sallyport/schema';
import type { ConnectionService } from '../credentials/connection.service.ts';
import { accountClientId, type AccountPages, contextOf } from './account.ts';
import { amrOf, type Authorizations, loginOf, requestOf } from './authorizations.ts';
import type { ConsentService } from './consent.service.ts';
import { asRefused } from './connect.ts';
import { answering, type OwnForms, redirect, Refused, send } from './forms.ts';
import type { LoginCodeService } from './login-code.service.ts';
import { accountsDuePage, consentPage, loginPage, type Page } from './pages.ts';
import { accountsPrompt } from './provider.ts';
import { isOwnedRedirect, redirectHost } from './redirect-uri.ts';
import type { StepUpService } from './step-up.service.ts';

type Interaction = Awaited<ReturnType<Provider['interactionDetails']>>;

/** Whoever logged in, and how. */
export interface LoggedIn {
  readonly principalId: string;
  /** The login at an identity provider; undefined for a login code. */
  readonly loginId?: string | undefined;
  readonly acr?: string | undefined;
  /** When, by the word of the identity provider, in seconds since the epoch. */
  readonly authenticatedAt?: number | undefined;
}

export interface InteractionOptions {
  readonly forms: OwnForms;
  readonly stepUp: Pick<StepUpService, 'neededFor' | 'isMet'>;
  readonly authorizations: Authorizations;
  readonly consents: ConsentService;
  readonly loginCodes: LoginCodeService;
  readonly userConnections: Pick<ConnectionService, 'dueAtLogin' | 'beginAtLogin' | 'postpone'>;
  /** Who is logged in in this browser. */
  readonly userOf: AccountPages['userOf'];
  /** Identity providers that users may log in with. */
  readonly identityProviders: () => Promise<readonly { readonly id: string; readonly name: string }[]>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * The pages of the authorization server: log in, allow or deny. A form is taken only with the cookie of its interaction,
 * a token that its page held, and from this origin.
 */
export class Interactions {
  private readonly options: InteractionOptions;

  constructor(options: InteractionOptions) {
    this.options = options;
  }

  /** The page that the interaction is at. */
  async show(provider: Provider, request: IncomingMessage, response: ServerResponse, uid: string): Promise<void> {
    await answering(response, async () => {
      const interaction = await this.find(provider, request, response, uid);
      const page = await this.pageOf(provider, interaction);
      // The last account was connected: there is nothing left to show.
      if (page === undefined) await this.goOn(provider, request, response);
      else send(response, 200, page);
    });
  }

  private async pageOf(provider: Provider, interaction: Interaction): Promise<Page | undefined> {
    switch (interaction.prompt.name) {
      case 'consent':
        return this.consent(provider, interaction);
      case accountsPrompt:
        return this.accountsDue(interaction);
      default:
        return this.login(provider, interaction);
    }
  }

  /** Connects an account that is due, or puts off what is left. */
  async changeAccounts(provider: Provider, request: IncomingMessage, response: ServerResponse, uid: string) {
    await answering(response, async () => {
      const interaction = await this.find(provider, request, response, uid);
      const form = await this.options.forms.read(request, uid);
      const user = await this.options.userOf(provider, request, response);
      const isDue = interaction.prompt.name === accountsPrompt && user?.id === interaction.session?.accountId;
      if (user === undefined || !isDue) throw new Refused(400, 'There is nothing to connect.');
      const serverId = form.get('connect');
      if (serverId === null) {
        await this.options.userConnections.postpone(user.ctx);
        await this.goOn(provider, request, response);
        return;
      }
      const begun = this.options.userConnections.beginAtLogin(user.ctx, serverId, user.subject, uid);
      const url = await begun.catch((error: unknown) => {
        throw asRefused(error);
      });
      redirect(response, url.href);
    });
  }

  /** With the login, and with what was allowed before in this interaction. */
  private async goOn(provider: Provider, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const result = { [accountsPrompt]: { seen: true } };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
  }

  private async accountsDue({ uid, session, params }: Interaction): Promise<Page | undefined> {
    const principalId = session?.accountId ?? '';
    const due = await this.options.userConnections.dueAtLogin(principalId);
    if (due.length === 0) return undefined;
    return accountsDuePage({
      action: oauthRoutes.oauthAccountsDue.path.replace('{id}', uid),
      csrf: this.options.forms.tokenOf(uid),
      userName: (await this.options.loginCodes.user(principalId)).name,
      servers: due.map(({ id, title, url }) => ({ id, title, host: new URL(url).host })),
      redirectUri: String(params['redirect_uri']),
    });
  }

  /** What the login of an interaction must be like. */
  async needs(provider: Provider, uid: string): Promise<StepUpNeeds> {
    const interaction = await provider.Interaction.find(uid);
    return this.options.stepUp.neededFor(interaction?.params ?? {});
  }

  /** A login code was entered. */
  async enterCode(
    provider: Provider,
    request: IncomingMessage,
    response: ServerResponse,
    uid: string,
    onWrong: () => void,
  ): Promise<void> {
    await answering(response, async () => {
      const interaction = await this.find(provider, request, response, uid);
      const form = await this.options.forms.read(request, uid);
      const user = await this.options.loginCodes.redeem((form.get('code') ?? '').trim());
      if (user === undefined) {
        onWrong();
        this.options.log.warn({ uid }, 'a login code was refused');
        send(response, 401, await this.login(provider, interaction, 'This code is unknown, used or expired.'));
        return;
      }
      await this.finishLogin(provider, request, response, interaction, { principalId: user.id });
    });
  }

  /** Somebody logged in by an identity provider, and came back with this interaction's cookie. */
  async loggedIn(
    provider: Provider,
    request: IncomingMessage,
    response: ServerResponse,
    uid: string,
    login: () => Promise<LoggedIn | undefined>,
  ): Promise<void> {
    await answering(response, async () => {
      const interaction = await this.find(provider, request, response, uid);
      const who = await login();
      if (who === undefined) throw new Refused(400, 'This login has expired or was used already.');
      await this.finishLogin(provider, request, response, interaction, who);
    });
  }

  /** Allow, deny, or log in as somebody else. */
  async decide(provider: Provider, request: IncomingMessage, response: ServerResponse, uid: string): Promise<void> {
    await answering(response, async () => {
      const interaction = await this.find(provider, request, response, uid);
      const form = await this.options.forms.read(request, uid);
      const decision = form.get('decision');
      // The login of this interaction is part of an answer, but for one that asks for another login.
      const merge = { mergeWithLastSubmission: decision !== 'switch' };
      const result = await this.decision(provider, interaction, decision);
      await provider.interactionFinished(request, response, result, merge);
    });
  }

  private async decision(
    provider: Provider,
    interaction: Interaction,
    decision: string | null,
  ): Promise<InteractionResults> {
    if (decision === 'switch') {
      await forgetSession(provider, interaction, this.options.clock);
      return {};
    }
    if (decision !== 'allow') return { error: 'access_denied', error_description: 'The user did not allow it.' };
    const request = requestOf(interaction.session?.accountId, interaction.params);
    if (request === undefined || interaction.prompt.name !== 'consent')
      throw new Refused(400, 'There is nothing to allow.');
    const user = await this.options.loginCodes.user(request.principalId);
    const clientName = await this.clientName(provider, request.clientId);
    await this.options.consents.record(contextOf(user, this.options), { ...request, clientName });
    const grantId = await this.options.authorizations.grant(provider, request, loginOf(interaction.session?.amr));
    return { consent: { grantId } };
  }

  private async finishLogin(
    provider: Provider,
    request: IncomingMessage,
    response: ServerResponse,
    interaction: Interaction,
    { principalId, loginId, acr, authenticatedAt }: LoggedIn,
  ): Promise<void> {
    const { session } = interaction;
    const { acrValues } = await this.options.stepUp.neededFor(interaction.params);
    if (!this.options.stepUp.isMet({ acrValues, maxAgeSeconds: null }, { acr })) {
      const description = 'The login is not of a context that was asked for.';
      const refusal = { error: 'unmet_authentication_requirements', error_description: description };
      await provider.interactionFinished(request, response, refusal, { mergeWithLastSubmission: false });
      return;
    }
    if (session !== undefined && session.accountId !== principalId) {
      await forgetSession(provider, interaction, this.options.clock);
    }
    const amr = amrOf(loginId, authenticatedAt);
    const login = { accountId: principalId, amr, ...(acr === undefined ? {} : { acr }) };
    await provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
  }

  private async login(provider: Provider, interaction: Interaction, problem?: string): Promise<Page> {
    const { uid, params } = interaction;
    const base = `/oauth/interaction/${uid}`;
    const redirectUri = String(params['redirect_uri']);
    const providers = await this.options.identityProviders();
    return loginPage({
      action: `${base}/login`,
      csrf: this.options.forms.tokenOf(uid),
      clientName: await this.clientName(provider, String(params['client_id'])),
      redirectUri,
      redirectHost: redirectHost(redirectUri),
      isOwnPage: params['client_id'] === accountClientId,
      providers: providers.map(({ id, name }) => ({ name, href: `${base}/provider?id=${encodeURIComponent(id)}` })),
      problem,
    });
  }

  private async consent(provider: Provider, interaction: Interaction): Promise<Page> {
    const request = requestOf(interaction.session?.accountId, interaction.params);
    if (request === undefined) throw new Refused(400, 'The request is not complete.');
    return consentPage({
      ...request,
      action: `/oauth/interaction/${interaction.uid}/consent`,
      csrf: this.options.forms.tokenOf(interaction.uid),
      userName: (await this.options.loginCodes.user(request.principalId)).name,
      clientName: await this.clientName(provider, request.clientId),
      redirectHost: redirectHost(request.redirectUri),
      isRemembered: isOwnedRedirect(request.redirectUri),
      accountHref: oauthRoutes.oauthAccount.path,
    });
  }

  private async clientName(provider: Provider, clientId: string): Promise<string> {
    const client = await provider.Client.find(clientId);
    // A metadata document may hold whatever its author likes.
    return (client?.clientName ?? clientId).replaceAll('\u0000', '').slice(0, nameLengthMax);
  }

  private async find(provider: Provider, request: IncomingMessage, response: ServerResponse, uid: string) {
    const interaction = await provider.interactionDetails(request, response).catch((error: unknown) => {
      this.options.log.debug({ err: error }, 'an interaction was not found');
      throw new Refused(400, 'This page has expired, or was opened in another browser.');
    });
    if (interaction.uid !== uid) throw new Refused(400, 'This page belongs to another login.');
    return interaction;
  }
}

/** Ends the browser session that the interaction began in, so that it can go on in a new one. */
async function forgetSession(provider: Provider, interaction: Interaction, clock: Clock): Promise<void> {
  const { session } = interaction;
  if (session === undefined) return;
  await (await provider.Session.findByUid(session.uid))?.destroy();
  delete interaction.session;
  await interaction.save(interaction.exp - Math.floor(clock.now() / 1000));
}
