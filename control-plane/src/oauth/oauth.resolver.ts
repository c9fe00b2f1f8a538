import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../graphql-connection.ts';
import type { PublicUrls } from '../fleet/compile-snapshot.ts';
import type { SigningKeyRow, SigningKeyService } from '../fleet/signing-keys.ts';
import type { ClientService, IssuedClient } from './client.service.ts';
import type { ConsentService } from './consent.service.ts';
import type { IssuedLoginCode, LoginCodeService } from './login-code.service.ts';
import {
  AuthorizationServerInfo,
  CreateLoginCodeInput,
  CreateOAuthClientInput,
  DeleteOAuthClientInput,
  EndSessionsInput,
  EndSessionsPayload,
  IssuedLoginCodePayload,
  IssuedOAuthClientPayload,
  OAuthClient,
  OAuthClientConnection,
  OAuthConsent,
  OAuthConsentConnection,
  OAuthConsentsArguments,
  RevokeOAuthConsentInput,
  RotateOAuthClientSecretInput,
  RotateSigningKeyInput,
  SigningKey,
  UpdateAuthorizationServerInput,
} from './oauth.graphql.ts';
import type { OAuthClientRow, OAuthConsentRow } from './oauth.tables.ts';
import type { ObjectStore } from './object-store.service.ts';
import { isOwnedRedirect } from './redirect-uri.ts';
import type { OAuthSettings, OAuthSettingsService } from './settings.service.ts';

interface Services {
  readonly publicUrls: PublicUrls | undefined;
  readonly oauthSettings: OAuthSettingsService;
  readonly oauthClients: ClientService;
  readonly oauthStore: ObjectStore;
  readonly consents: ConsentService;
  readonly loginCodes: LoginCodeService;
  readonly fleet: { readonly signingKeys: SigningKeyService };
}

@Resolver(() => OAuthConsent)
export class OAuthConsentResolver {
  @FieldResolver(() => Boolean)
  isRemembered(@Root() { redirectUri }: OAuthConsentRow): boolean {
    return isOwnedRedirect(redirectUri);
  }
}

@Resolver()
export class OAuthResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => AuthorizationServerInfo, { description: 'The authorization server, and what administrators chose.' })
  async authorizationServer(@Ctx() ctx: Context): Promise<AuthorizationServerInfo> {
    return this.info(await this.services.oauthSettings.get(ctx));
  }

  @Mutation(() => AuthorizationServerInfo, { description: 'Changes who may be a client without an administrator.' })
  async updateAuthorizationServer(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateAuthorizationServerInput, { description: 'The changes.' })
    input: UpdateAuthorizationServerInput,
  ): Promise<AuthorizationServerInfo> {
    return this.info(await this.services.oauthSettings.update(ctx, input));
  }

  @Query(() => [SigningKey], { description: 'Keys that sign access tokens, oldest first.' })
  signingKeys(@Ctx() ctx: Context): Promise<SigningKeyRow[]> {
    return this.services.fleet.signingKeys.list(ctx);
  }

  @Mutation(() => SigningKey, {
    description:
      'Makes a new key; it signs by itself once every live node has acknowledged that it can verify with it.',
  })
  rotateSigningKey(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateSigningKeyInput, { description: 'The rotation.' }) input: RotateSigningKeyInput,
  ): Promise<SigningKeyRow> {
    return this.services.fleet.signingKeys.rotate(ctx, input);
  }

  @Query(() => OAuthClient, { description: 'A registered OAuth client by its id.' })
  oauthClient(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Its client_id.' }) id: string,
  ): Promise<OAuthClientRow> {
    return this.services.oauthClients.get(ctx, id);
  }

  @Query(() => OAuthClientConnection, { description: 'Registered OAuth clients, by id.' })
  async oauthClients(
    @Ctx() ctx: Context,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<OAuthClientRow>> {
    const page = pageOf(args, 1, false);
    return connectionFrom(await this.services.oauthClients.list(ctx, page), page, (row) => [row.id]);
  }

  @Mutation(() => IssuedOAuthClientPayload, {
    description: 'Registers an OAuth client, and shows its secret, this once.',
  })
  createOAuthClient(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateOAuthClientInput, { description: 'The client.' }) input: CreateOAuthClientInput,
  ): Promise<IssuedClient> {
    return this.services.oauthClients.create(ctx, input);
  }

  @Mutation(() => IssuedOAuthClientPayload, { description: 'Gives an OAuth client a new secret.' })
  rotateOAuthClientSecret(
    @Ctx() ctx: Context,
    @Arg('input', () => RotateOAuthClientSecretInput, { description: 'Which client.' })
    input: RotateOAuthClientSecretInput,
  ): Promise<IssuedClient> {
    return this.services.oauthClients.rotateSecret(ctx, input);
  }

  @Mutation(() => OAuthClient, { description: 'Deletes an OAuth client and voids its tokens.' })
  deleteOAuthClient(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteOAuthClientInput, { description: 'Which client.' }) input: DeleteOAuthClientInput,
  ): Promise<OAuthClientRow> {
    const { oauthClients, oauthStore } = this.services;
    return oauthClients.delete(ctx, input, (tx) => oauthStore.endFamilies(tx, { clientId: input.id }));
  }

  @Query(() => OAuthConsentConnection, { description: 'What users allowed clients, oldest first.' })
  async oauthConsents(
    @Ctx() ctx: Context,
    @Args(() => OAuthConsentsArguments) args: OAuthConsentsArguments,
  ): Promise<ConnectionOf<OAuthConsentRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.consents.list(ctx, args.principalId, page), page, (row) => [row.id]);
  }

  @Mutation(() => OAuthConsent, { description: 'Withdraws a consent and voids the client’s tokens for the user.' })
  revokeOAuthConsent(
    @Ctx() ctx: Context,
    @Arg('input', () => RevokeOAuthConsentInput, { description: 'Which consent.' }) input: RevokeOAuthConsentInput,
  ): Promise<OAuthConsentRow> {
    return this.services.consents.revoke(ctx, input);
  }

  @Mutation(() => EndSessionsPayload, { description: 'Ends a principal’s browser sessions and voids its tokens.' })
  endSessions(
    @Ctx() ctx: Context,
    @Arg('input', () => EndSessionsInput, { description: 'Whose.' }) input: EndSessionsInput,
  ): Promise<EndSessionsPayload> {
    return this.services.consents.endSessions(ctx, input);
  }

  @Mutation(() => IssuedLoginCodePayload, { description: 'Makes a code with which a user logs in, once.' })
  createLoginCode(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateLoginCodeInput, { description: 'For whom.' }) input: CreateLoginCodeInput,
  ): Promise<IssuedLoginCode> {
    return this.services.loginCodes.create(ctx, input);
  }

  private info({ clientDomains, ...rest }: OAuthSettings): AuthorizationServerInfo {
    const { publicUrls } = this.services;
    const urls = { issuer: publicUrls?.issuer ?? null, nodesUrl: publicUrls?.nodesUrl ?? null };
    return { ...urls, ...rest, clientDomains: [...clientDomains] };
  }
}
