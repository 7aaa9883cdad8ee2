//! The member list.

use proto::etcdserverpb as pb;

use super::Etcd;

#[tokio::test]
async fn the_member_list_has_no_revision() {
    let mut etcd = Etcd::fresh().await;
    etcd.put("k", "v").await;
    for linearizable in [false, true] {
        let request = pb::MemberListRequest { linearizable };
        let answer = etcd.cluster.member_list(request).await;
        let answer = answer.expect("a list").into_inner();
        let header = answer.header.expect("a header");
        assert_eq!(header.revision, 0);
        let [member] = &answer.members[..] else {
            panic!("{:?}", answer.members);
        };
        assert_eq!((member.id, member.name.as_str()), (header.member_id, "m0"));
        assert_eq!(member.client_ur_ls, [etcd.server.client_url()]);
        assert_eq!(member.peer_ur_ls, [etcd.server.peer_url()]);
        assert!(!member.is_learner);
    }
}
