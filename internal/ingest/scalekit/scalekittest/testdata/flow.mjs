// The whole removal flow with the official SDK.
//
//   node flow.mjs base-url client-id client-secret
//
// There is no call that begins a session: for {"session": {"user_id",
// "organization_id"}} on a line of standard output one is begun elsewhere, and its
// id comes back on a line of standard input. Each step that holds is a line, and
// the last one is "done".
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import sdk from '@scalekit-sdk/node';

const {
  ScalekitClient,
  ScalekitBadRequestException,
  ScalekitConflictException,
  ScalekitNotFoundException,
} = sdk;
const [base, id, secret] = process.argv.slice(2);
const ACTIVE = 1, PENDING_INVITE = 3;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function beginSession(user_id, organization_id) {
  console.log(JSON.stringify({ session: { user_id, organization_id } }));
  return (await answers.next()).value;
}

async function step(name, run) {
  try {
    await run();
  } catch (err) {
    console.error(`step ${name}:`, err);
    process.exit(1);
  }
  console.log('ok', name);
}

async function fails(call, kind, errorCode, field) {
  await assert.rejects(call, (err) => {
    assert.ok(err instanceof kind, `${err?.constructor?.name}: ${err}`);
    if (errorCode) assert.equal(err.errorCode, errorCode);
    if (field) {
      const violations = err.unpackedDetails[0].validationErrorInfo.fieldViolations;
      assert.ok(violations.some((v) => v.field === field), JSON.stringify(violations));
    }
    return true;
  });
}

const client = new ScalekitClient(base, id, secret);
const run = Date.now().toString(36);
const noUser = 'usr_999999999999999999';
let acme, globex, ann, bob, carl;

const member = (user, organization) => user.memberships.find((m) => m.organizationId === organization.id);
const members = async (organization) => {
  const emails = [];
  for (let pageToken = ''; ;) {
    const page = await client.user.listOrganizationUsers(organization.id, { pageSize: 1, pageToken });
    emails.push(...page.users.map((u) => u.email));
    if (!(pageToken = page.nextPageToken)) return emails.sort();
  }
};

await step('create organizations', async () => {
  acme = (await client.organization.createOrganization('Acme', { externalId: `acme-${run}` })).organization;
  globex = (await client.organization.createOrganization('Globex')).organization;
  assert.match(acme.id, /^org_\d{15,21}$/);
  assert.equal((await client.organization.getOrganizationByExternalId(`acme-${run}`)).organization.id, acme.id);
  assert.equal((await client.organization.getOrganization(globex.id)).organization.displayName, 'Globex');
  assert.ok((await client.organization.listOrganization({ pageSize: 10 })).organizations.length >= 1);
  await fails(() => client.organization.createOrganization('Acme', { externalId: `acme-${run}` }), ScalekitConflictException);
});

await step('create users with memberships', async () => {
  ann = (await client.user.createUserAndMembership(acme.id, {
    email: `ann-${run}@acme.example`,
    externalId: `ann-${run}`,
    userProfile: { firstName: 'Ann', lastName: 'Lee' },
    metadata: { team: 'blue' },
    sendInvitationEmail: false,
  })).user;
  bob = (await client.user.createUserAndMembership(acme.id, { email: `bob-${run}@acme.example`, sendInvitationEmail: false })).user;
  carl = (await client.user.createUserAndMembership(acme.id, { email: `carl-${run}@acme.example` })).user;
  assert.match(ann.id, /^usr_\d{15,21}$/);
  assert.equal(member(ann, acme).membershipStatus, ACTIVE);
  assert.equal(member(carl, acme).membershipStatus, PENDING_INVITE);
  await fails(() => client.user.createUserAndMembership(acme.id, { email: `ANN-${run}@acme.example` }), ScalekitConflictException, 'USER_ALREADY_EXISTS');
});

await step('get and list users', async () => {
  const { user } = await client.user.getUser(ann.id);
  assert.equal(user.email, ann.email);
  assert.equal(user.userProfile.givenName, 'Ann');
  assert.equal(user.userProfile.lastName, 'Lee');
  assert.deepEqual(user.metadata, { team: 'blue' });
  assert.equal((await client.user.getUserByExternalId(`ann-${run}`)).user.id, ann.id);
  assert.deepEqual(await members(acme), [ann.email, bob.email, carl.email]);
  assert.ok((await client.user.listUsers({ pageSize: 2 })).totalSize >= 3);
});

await step('create and update a membership', async () => {
  const { user } = await client.user.createMembership(globex.id, ann.id, { roles: ['viewer'], metadata: { seat: '12' }, sendInvitationEmail: false });
  assert.equal(user.memberships.length, 2);
  assert.equal(member(user, globex).membershipStatus, ACTIVE);
  assert.equal(member(user, globex).roles[0].name, 'viewer');
  const updated = (await client.user.updateMembership(globex.id, ann.id, { roles: ['editor'] })).user;
  assert.deepEqual(member(updated, globex).roles.map((r) => r.name), ['editor']);
  assert.deepEqual(member(updated, globex).metadata, { seat: '12' });
  await fails(() => client.user.createMembership(globex.id, ann.id), ScalekitConflictException, 'MEMBERSHIP_ALREADY_EXISTS');
});

await step('error classes', async () => {
  await fails(() => client.user.getUser(noUser), ScalekitNotFoundException, 'USER_NOT_FOUND');
  await fails(() => client.user.deleteMembership('org_999999999999999999', noUser), ScalekitNotFoundException, 'ORGANIZATION_NOT_FOUND');
  await fails(() => client.user.deleteMembership(globex.id, bob.id), ScalekitNotFoundException, 'MEMBERSHIP_NOT_FOUND');
  await fails(() => client.user.deleteMembership(acme.id, 'user_456'), ScalekitBadRequestException, 'INVALID_ARGUMENT', 'id');
  await fails(() => client.user.listOrganizationUsers(acme.id, { pageSize: 101 }), ScalekitBadRequestException, 'INVALID_ARGUMENT', 'page_size');
  await fails(() => client.user.listUsers({ pageToken: 'no token of ours' }), ScalekitBadRequestException, 'INVALID_ARGUMENT', 'page_token');
});

await step('a wrong secret', async () => {
  const stranger = new ScalekitClient(base, id, `${secret}x`);
  await assert.rejects(() => stranger.user.getUser(ann.id), (err) => err.response?.status === 401 && err.response.data.error === 'invalid_client');
});

await step('the form with one object loses the ids and changes nothing', async () => {
  await fails(() => client.user.deleteMembership({ organizationId: acme.id, userId: ann.id }), ScalekitBadRequestException, 'INVALID_ARGUMENT', 'organization_id');
  assert.deepEqual(await members(acme), [ann.email, bob.email, carl.email]);
});

let first, second;
await step('sessions', async () => {
  first = await beginSession(ann.id, acme.id);
  second = await beginSession(ann.id, globex.id);
  assert.equal((await client.session.getSession(first)).status, 'active');
  const { sessions, totalSize } = await client.session.getUserSessions(ann.id, { filter: { status: ['active'] } });
  assert.equal(totalSize, 2);
  assert.deepEqual(sessions.map((s) => s.sessionId).sort(), [first, second].sort());
  await fails(() => client.session.getSession('ses_999999999999999999'), ScalekitNotFoundException);
  await fails(() => client.session.getSession('ses_x'), ScalekitBadRequestException, 'INVALID_ARGUMENT', 'session_id');
});

await step('delete a membership', async () => {
  await client.user.deleteMembership(acme.id, ann.id);
  const { user } = await client.user.getUser(ann.id);
  assert.deepEqual(user.memberships.map((m) => m.organizationId), [globex.id]);
  assert.equal(member(user, globex).roles[0].name, 'editor');
  assert.deepEqual(await members(acme), [bob.email, carl.email]);
  assert.equal((await client.session.getSession(first)).status, 'revoked');
  assert.equal((await client.session.getSession(second)).status, 'active');
  await fails(() => client.user.deleteMembership(acme.id, ann.id), ScalekitNotFoundException, 'MEMBERSHIP_NOT_FOUND');
});

await step('revoke sessions', async () => {
  assert.equal((await client.session.revokeSession(second)).revokedSession.status, 'revoked');
  const third = await beginSession(ann.id, globex.id);
  const { revokedSessions, totalRevoked } = await client.session.revokeAllUserSessions(ann.id);
  assert.equal(totalRevoked, 1);
  assert.equal(revokedSessions[0].sessionId, third);
});

await step('add again', async () => {
  await client.user.createMembershipByExternalId(acme.id, `ann-${run}`, { sendInvitationEmail: false });
  assert.equal((await client.user.getUser(ann.id)).user.memberships.filter((m) => m.organizationId === acme.id).length, 1);
  await client.user.deleteMembershipByExternalId(acme.id, `ann-${run}`);
});

await step('renew a token that was lost', async () => {
  assert.match(client.coreClient.accessToken, /^sat_/);
  client.coreClient.accessToken = 'sat_lost';
  assert.equal((await client.user.getUser(ann.id)).user.id, ann.id);
  assert.notEqual(client.coreClient.accessToken, 'sat_lost');
});

await step('remove one who was only invited, and with it the account', async () => {
  await client.user.deleteMembership(acme.id, carl.id);
  await fails(() => client.user.getUser(carl.id), ScalekitNotFoundException, 'USER_NOT_FOUND');
});

await step('delete a user', async () => {
  await client.user.deleteUser(bob.id);
  await fails(() => client.user.getUser(bob.id), ScalekitNotFoundException, 'USER_NOT_FOUND');
  await fails(() => client.user.deleteUser(bob.id), ScalekitNotFoundException, 'USER_NOT_FOUND');
  assert.deepEqual(await members(acme), []);
});

await step('delete organizations', async () => {
  await client.organization.deleteOrganization(globex.id);
  await client.organization.deleteOrganization(acme.id);
  await fails(() => client.organization.getOrganization(globex.id), ScalekitNotFoundException, 'ORGANIZATION_NOT_FOUND');
  await fails(() => client.user.getUser(ann.id), ScalekitNotFoundException, 'USER_NOT_FOUND');
});

console.log('done');
process.exit(0);
