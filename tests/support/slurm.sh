#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests/integration/test_slurm.py: Debian, root.
#
#   tests/support/slurm.sh start DIR    after: apt-get install slurm-wlm slurmdbd munge mariadb-server
#   tests/support/slurm.sh stop DIR
#
# Both nodes are this machine, under the names codec1 and codec2 (added to /etc/hosts), each with 8
# GPUs that are only counted. State, logs and pids are in DIR, configuration in /etc/slurm.
set -euo pipefail
action=${1:?start or stop}
dir=${2:?a folder}
host=$(hostname -s)
nodes=(codec1 codec2)
daemons=(slurmd-codec1 slurmd-codec2 slurmctld slurmdbd munged mariadbd)

stop() {
  for name in "${daemons[@]}"; do
    if [ -s "$dir/$name.pid" ]; then
      kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
      rm -f "$dir/$name.pid"
    fi
  done
  sed -i '/ codec1 codec2$/d' /etc/hosts 2>/dev/null || grep -v ' codec1 codec2$' /etc/hosts > "$dir/hosts" \
    && [ -s "$dir/hosts" ] && cat "$dir/hosts" > /etc/hosts || true
}

wait_for() {  # seconds, then a command
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "did not succeed: $*" >&2; exit 1; }
    sleep 0.5
  done
}

mkdir -p "$dir"
stop
[ "$action" = stop ] && exit 0

mkdir -p "$dir"/{state,spool-codec1,spool-codec2,log,db} /etc/slurm /run/munge /run/mysqld
echo "127.0.0.1 codec1 codec2" >> /etc/hosts
cat > /etc/slurm/slurm.conf <<EOF
ClusterName=codec
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
SlurmdUser=root
GresTypes=gpu
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdSpoolDir=$dir/spool-%n
StateSaveLocation=$dir/state
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
NodeName=codec1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=16 RealMemory=64000 Gres=gpu:8
NodeName=codec2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=16 RealMemory=64000 Gres=gpu:8
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
EOF
for node in "${nodes[@]}"; do
  echo "NodeName=$node Name=gpu File=/dev/tty[0-7]"
done > /etc/slurm/gres.conf
cat > /etc/slurm/slurmdbd.conf <<EOF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
EOF
chmod 600 /etc/slurm/slurmdbd.conf
[ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom > /etc/munge/munge.key
chown munge: /etc/munge/munge.key /run/munge
chmod 400 /etc/munge/munge.key
su -s /bin/bash munge -c '/usr/sbin/munged --force'
cp /run/munge/munged.pid "$dir/munged.pid"
chown mysql: /run/mysqld
chmod 777 "$dir"
mariadbd --user=mysql --bind-address=127.0.0.1 --pid-file="$dir/mariadbd.pid" > "$dir/log/mariadb.log" 2>&1 &
wait_for 30 mariadb -e 'select 1'
mariadb -e "create database if not exists slurm_acct_db;
            create user if not exists slurm@localhost identified by 'slurm';
            grant all on slurm_acct_db.* to slurm@localhost"
slurmdbd
wait_for 30 sacctmgr -n list cluster
for entity in 'cluster codec' 'account none' 'user root account=none'; do
  # shellcheck disable=SC2086
  sacctmgr -i add $entity > /dev/null 2>&1 || true
done
slurmctld
for node in "${nodes[@]}"; do
  slurmd -N "$node"
done
wait_for 60 sh -c '[ "$(sinfo -h -p low -t idle -o %D)" = 2 ]'
sinfo
